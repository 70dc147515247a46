package httpd

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// instantData answers at once: what is left is the edge's own cost.
type instantData struct {
	fakeData
	reading kv.Reading
	written kv.Written
}

func (d *instantData) Get(context.Context, []byte, kv.ReadOptions) (kv.Reading, error) {
	return d.reading, nil
}

func (d *instantData) Txn(context.Context, *kvpb.Txn, *kvpb.RequestID) (kv.Written, error) {
	return d.written, nil
}

func newInstant() *Server {
	served := kv.Served{Shard: testShard, Node: testNode, Consistency: kv.Linearizable}
	item := &kvpb.Item{Key: []byte("user/1234567890"), Value: bytes.Repeat([]byte("v"), 100), Version: 1 << 60}
	d := &instantData{reading: kv.Reading{Item: item, Served: served}}
	served.Consistency = ""
	d.written = kv.Written{Served: served, Result: &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, Succeeded: true, Version: 1 << 60,
		Ops: []*kvpb.OpResult{{Found: true}}}}
	return New(Options{Data: d, Cluster: &fakeCluster{}, Health: &fakeHealth{}, Self: testNode})
}

// discard is the cheapest ResponseWriter.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// SetReadDeadline is there because net/http's has one.
func (d *discard) SetReadDeadline(time.Time) error { return nil }

// rewind is a body that can be sent again.
type rewind struct{ bytes.Reader }

func (*rewind) Close() error { return nil }

func BenchmarkGet(b *testing.B) {
	s := newInstant()
	r := httptest.NewRequest("GET", keyPrefix+"user/1234567890", nil)
	w := &discard{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		s.ServeHTTP(w, r)
	}
}

// BenchmarkGetWithToken is BenchmarkGet where tokens are asked for.
func BenchmarkGetWithToken(b *testing.B) {
	s := newInstant()
	tokens := &fakeAccess{}
	s.opts.Access = tokens
	text, _ := tokens.token(kv.TokenOrder{Grants: []kv.Grant{{Role: kv.RoleReader, Prefix: []byte("user/")}}})
	r := httptest.NewRequest("GET", keyPrefix+"user/1234567890", nil)
	r.Header.Set("Authorization", "Bearer "+text)
	w := &discard{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		s.ServeHTTP(w, r)
	}
}

func BenchmarkPut(b *testing.B) {
	s := newInstant()
	value := bytes.Repeat([]byte("v"), 100)
	body := &rewind{}
	r := httptest.NewRequest("PUT", keyPrefix+"user/1234567890", nil)
	r.Body, r.ContentLength = body, int64(len(value))
	w := &discard{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		body.Reset(value)
		s.ServeHTTP(w, r)
	}
}

// BenchmarkLoopback measures GET over real connections with net/http on both
// sides: how much of a request the edge is.
func BenchmarkLoopback(b *testing.B) {
	srv := httptest.NewServer(newInstant())
	defer srv.Close()
	client := srv.Client()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.Get(srv.URL + keyPrefix + "user/1234567890")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

func BenchmarkParseBatch(b *testing.B) {
	body := []byte(`{"ops":[`)
	for i := range 100 {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"op":"put","key":"user/1234567890","value":"`...)
		body = append(body, bytes.Repeat([]byte("v"), 100)...)
		body = append(body, `"}`...)
	}
	body = append(body, `]}`...)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseBatch(body, false); err != nil {
			b.Fatal(err)
		}
	}
}
