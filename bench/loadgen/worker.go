// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// tickets hands out request numbers until a total is used up (0: without end).
type tickets struct {
	next  atomic.Int64
	total int64
}

func newTickets(count int) *tickets { return &tickets{total: int64(count)} }

func (t *tickets) take() (int64, bool) {
	n := t.next.Add(1) - 1
	return n, t.total == 0 || n < t.total
}

// payload is the content of every object: random, so that nothing compresses or deduplicates it.
type payload struct {
	data []byte
	hash string
}

func newPayload(o options) *payload {
	p := &payload{hash: "UNSIGNED-PAYLOAD"}
	if o.method == "PUT" || o.verify {
		p.data = make([]byte, o.size)
		rand.New(rand.NewSource(1)).Read(p.data)
	}
	if o.method != "PUT" {
		empty := sha256.Sum256(nil)
		p.hash = hex.EncodeToString(empty[:])
	} else if o.signedHash {
		sum := sha256.Sum256(p.data)
		p.hash = hex.EncodeToString(sum[:])
	}
	return p
}

// worker is one connection.
type worker struct {
	o         options
	sign      signer
	payload   *payload
	conn      net.Conn
	reader    *bufio.Reader
	request   bytes.Buffer
	scratch   []byte
	latencies []time.Duration
	failures  map[string]int
}

func newWorker(o options, _ int, p *payload) *worker {
	return &worker{
		o: o, payload: p, failures: map[string]int{}, scratch: make([]byte, 256*1024),
		sign: signer{accessKey: o.accessKey, secretKey: o.secretKey, region: o.region},
	}
}

func (w *worker) loop(t *tickets, deadline time.Time) {
	defer w.close()
	failedInRow := 0
	for {
		n, ok := t.take()
		if !ok || time.Now().After(deadline) || failedInRow >= 20 {
			return
		}
		begin := time.Now()
		err := w.once(n)
		if err != nil {
			w.failures[err.Error()]++
			failedInRow++
			w.close()
			continue
		}
		failedInRow = 0
		w.latencies = append(w.latencies, time.Since(begin))
	}
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

func (w *worker) once(n int64) error {
	if w.conn == nil {
		conn, err := net.DialTimeout("tcp", w.o.address, w.o.timeout)
		if err != nil {
			return errors.New("connect failed")
		}
		w.conn = conn
		w.reader = bufio.NewReaderSize(conn, 64*1024)
	}
	_ = w.conn.SetDeadline(time.Now().Add(w.o.timeout))
	method, path := w.o.method, "/"+w.o.bucket
	if method == "MAKE-BUCKET" {
		method = "PUT"
	} else {
		path += "/" + w.o.prefix + strconv.FormatInt(n%int64(w.o.objects), 10)
	}
	body := w.payload.data
	if w.o.method != "PUT" {
		body = nil
	}
	if err := w.send(method, path, body); err != nil {
		return errors.New("send failed")
	}
	return w.receive(method)
}

func (w *worker) send(method, path string, body []byte) error {
	b := &w.request
	b.Reset()
	fmt.Fprintf(b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sluicefs-loadgen\r\n", method, path, w.o.host)
	if !w.o.anonymous {
		auth, date := w.sign.authorization(method, w.o.host, path, "", w.payload.hash, time.Now())
		fmt.Fprintf(b, "Authorization: %s\r\nX-Amz-Content-Sha256: %s\r\nX-Amz-Date: %s\r\n", auth, w.payload.hash, date)
	}
	if w.o.basic != "" {
		fmt.Fprintf(b, "Authorization: %s\r\n", w.o.basic)
	}
	if method == "PUT" {
		fmt.Fprintf(b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("Accept-Encoding: identity\r\n\r\n")
	// Small requests leave in one segment, as with any buffered client.
	if len(body) <= 32*1024 {
		b.Write(body)
		body = nil
	}
	if _, err := w.conn.Write(b.Bytes()); err != nil {
		return err
	}
	if body != nil {
		_, err := w.conn.Write(body)
		return err
	}
	return nil
}

// receive parses one answer: status line, headers of interest, body by length or by chunks.
func (w *worker) receive(method string) error {
	status, length, chunked, closing, err := w.head()
	if err != nil {
		return err
	}
	if status == 204 || status == 304 || method == "HEAD" {
		length, chunked = 0, false
	}
	var got int64
	switch {
	case chunked:
		for {
			line, err := w.reader.ReadString('\n')
			if err != nil {
				return errors.New("answer cut off")
			}
			n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
			if err != nil {
				return errors.New("bad chunk")
			}
			if err := w.swallow(n+2, -1); err != nil {
				return err
			}
			got += n
			if n == 0 {
				break
			}
		}
	case length >= 0:
		check := int64(-1)
		if w.o.verify && status == 200 && method == "GET" {
			check = 0
		}
		if err := w.swallow(length, check); err != nil {
			return err
		}
		got = length
	default:
		return errors.New("answer without length")
	}
	if closing {
		w.close()
	}
	if status < 200 || status >= 300 {
		return fmt.Errorf("status %d", status)
	}
	if method == "GET" && got != w.o.size {
		return fmt.Errorf("object of %d bytes", got)
	}
	return nil
}

func (w *worker) head() (status int, length int64, chunked, closing bool, err error) {
	length = -1
	for first := true; ; first = false {
		line, e := w.reader.ReadSlice('\n')
		if e != nil {
			return 0, 0, false, false, errors.New("connection closed before the answer")
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if len(line) < 12 {
				return 0, 0, false, false, errors.New("bad status line")
			}
			status, _ = strconv.Atoi(string(line[9:12]))
			continue
		}
		if len(line) == 0 {
			return status, length, chunked, closing, nil
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			length, _ = strconv.ParseInt(string(value), 10, 64)
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("connection")):
			closing = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// swallow reads n bytes; check ≥ 0 compares them with the payload from that offset on.
func (w *worker) swallow(n, check int64) error {
	for n > 0 {
		part := w.scratch
		if int64(len(part)) > n {
			part = part[:n]
		}
		got, err := w.reader.Read(part)
		if check >= 0 {
			end := check + int64(got)
			if end > int64(len(w.payload.data)) || !bytes.Equal(part[:got], w.payload.data[check:end]) {
				return errors.New("content differs")
			}
			check = end
		}
		n -= int64(got)
		if err != nil && (err != io.EOF || n > 0) {
			return errors.New("answer cut off")
		}
	}
	return nil
}
