// SPDX-License-Identifier: Apache-2.0

// Command loadgen puts a bounded load, S3 or plain HTTP with Basic authentication, on one endpoint and prints one JSON object with what it saw.
//
// Requests are written and answers parsed by hand on plain sockets: on two cores that generator and server share, every
// microsecond of the generator is taken from the server. It is a closed loop: each connection has one request in flight.
package main

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"
)

type options struct {
	address, host, bucket, prefix, method string
	accessKey, secretKey, region, basic   string
	size                                  int64
	objects, connections, count           int
	duration, timeout                     time.Duration
	signedHash, verify, anonymous         bool
}

type result struct {
	Method      string         `json:"method"`
	Size        int64          `json:"size"`
	Connections int            `json:"connections"`
	Seconds     float64        `json:"seconds"`
	Ops         int            `json:"ops"`
	OpsPerS     float64        `json:"ops_per_s"`
	MiBPerS     float64        `json:"mib_per_s"`
	P50Ms       float64        `json:"p50_ms"`
	P99Ms       float64        `json:"p99_ms"`
	MaxMs       float64        `json:"max_ms"`
	Errors      int            `json:"errors"`
	Failures    map[string]int `json:"failures,omitempty"`
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:9000", "host:port of the server")
	flag.StringVar(&o.bucket, "bucket", "bench", "bucket, addressed by path")
	flag.StringVar(&o.prefix, "prefix", "load/", "prefix of the keys")
	flag.StringVar(&o.method, "method", "PUT", "PUT, GET, HEAD, DELETE, or MAKE-BUCKET")
	flag.StringVar(&o.accessKey, "access-key", "", "access key")
	flag.StringVar(&o.region, "region", "us-east-1", "region of the signature")
	flag.Int64Var(&o.size, "size", 1024, "bytes per object")
	flag.IntVar(&o.objects, "objects", 1000, "number of keys the requests go round")
	flag.IntVar(&o.connections, "connections", 1, "keep-alive connections")
	flag.IntVar(&o.count, "count", 0, "stop after so many requests (0: by duration only)")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "stop after this time")
	flag.DurationVar(&o.timeout, "timeout", 60*time.Second, "for one request")
	flag.BoolVar(&o.signedHash, "signed-hash", false, "send the SHA-256 of the payload instead of UNSIGNED-PAYLOAD")
	flag.BoolVar(&o.verify, "verify", false, "compare what GET returns with what PUT sent")
	flag.Parse()
	// From the environment, so that it shows in no process list.
	o.secretKey = os.Getenv("LOADGEN_SECRET_KEY")
	// USER:PASSWORD: Basic authentication instead of a signature, for WebDAV.
	if login := os.Getenv("LOADGEN_BASIC"); login != "" {
		o.basic = "Basic " + base64.StdEncoding.EncodeToString([]byte(login))
	}
	o.anonymous = o.accessKey == ""
	o.host = o.address
	if o.duration > time.Hour || o.connections < 1 || o.connections > 4096 || o.objects < 1 || o.size < 0 {
		fmt.Fprintln(os.Stderr, "loadgen: out of bounds: duration ≤ 1h, 1 ≤ connections ≤ 4096, objects ≥ 1, size ≥ 0")
		os.Exit(2)
	}
	r := run(o)
	_ = json.NewEncoder(os.Stdout).Encode(r)
	if r.Ops == 0 {
		os.Exit(1)
	}
}

func run(o options) result {
	if o.method == "MAKE-BUCKET" {
		o.connections, o.count, o.objects = 1, 1, 1
	}
	payload := newPayload(o)
	workers := make([]*worker, o.connections)
	for i := range workers {
		workers[i] = newWorker(o, i, payload)
	}
	tickets := newTickets(o.count)
	var group sync.WaitGroup
	begin := time.Now()
	deadline := begin.Add(o.duration)
	for _, w := range workers {
		group.Add(1)
		go func(w *worker) {
			defer group.Done()
			w.loop(tickets, deadline)
		}(w)
	}
	group.Wait()
	// The rate counts what was finished, over the time until the last one finished.
	seconds := time.Since(begin).Seconds()

	r := result{Method: o.method, Size: o.size, Connections: o.connections, Seconds: seconds, Failures: map[string]int{}}
	var all []time.Duration
	for _, w := range workers {
		all = append(all, w.latencies...)
		for text, n := range w.failures {
			r.Failures[text] += n
			r.Errors += n
		}
	}
	r.Ops = len(all)
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	at := func(q float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e6
	}
	r.P50Ms, r.P99Ms, r.MaxMs = at(0.5), at(0.99), at(1)
	r.OpsPerS = float64(r.Ops) / seconds
	if o.method == "PUT" || o.method == "GET" {
		r.MiBPerS = r.OpsPerS * float64(o.size) / (1 << 20)
	}
	return r
}
