// SPDX-License-Identifier: Apache-2.0

package main

// AWS Signature Version 4 for the few fixed shapes of request that the load generator sends.
// Source: spec s3 §5.2, AWS "Signature Version 4 signing process".

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

type signer struct {
	accessKey, secretKey, region string
	// The signing key changes once a day.
	day string
	key []byte
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// authorization returns the Authorization value for a request whose signed headers are exactly host,
// x-amz-content-sha256 and x-amz-date. path must be in its canonical (encoded) form, query sorted and encoded.
func (s *signer) authorization(method, host, path, query, payloadHash string, now time.Time) (auth, date string) {
	date = now.UTC().Format("20060102T150405Z")
	day := date[:8]
	if day != s.day {
		key := mac([]byte("AWS4"+s.secretKey), day)
		key = mac(key, s.region)
		key = mac(key, "s3")
		s.key = mac(key, "aws4_request")
		s.day = day
	}
	canonical := strings.Join([]string{
		method, path, query,
		"host:" + host, "x-amz-content-sha256:" + payloadHash, "x-amz-date:" + date, "",
		"host;x-amz-content-sha256;x-amz-date", payloadHash,
	}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	scope := day + "/" + s.region + "/s3/aws4_request"
	signature := mac(s.key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(digest[:]))
	return "AWS4-HMAC-SHA256 Credential=" + s.accessKey + "/" + scope +
		",SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=" + hex.EncodeToString(signature), date
}
