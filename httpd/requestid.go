package httpd

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// requestID gives the request's id if the client named one by Idempotency-Key,
// nil otherwise. It is the hash of (principal, key), so that principals do not
// meet: it is the token's id, or "" where no tokens are asked for. The id is dated
// by this node's clock now, not by the client's first try, which nobody knows: a
// retry after kv.RequestIDWindow is a new request.
func (x *exchange) requestID(body []byte) (*kvpb.RequestID, error) {
	key, ok, err := x.header("Idempotency-Key")
	if err != nil || !ok {
		return nil, err
	}
	if key == "" || len(key) > kv.IdempotencyKeyBytesMax {
		p := invalid("Idempotency-Key: want 1 to 255 characters")
		p.limit = kv.IdempotencyKeyBytesMax
		return nil, p
	}
	sum := sha256.Sum256([]byte(x.caller.id() + "\x00" + key))
	return &kvpb.RequestID{
		Hi:          binary.BigEndian.Uint64(sum[:8]),
		Lo:          binary.BigEndian.Uint64(sum[8:16]),
		IssuedMs:    x.s.opts.Now().UnixMilli(),
		Fingerprint: x.fingerprint(body),
	}, nil
}

// fingerprint hashes all that gives a request its meaning, each part with its
// length before it. It is never 0, which would mean "not checked".
func (x *exchange) fingerprint(body []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	var n [8]byte
	// A Digest takes everything: its errors are always nil.
	part := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		d.Write(n[:])
		d.Write(b)
	}
	part([]byte(x.method))
	part([]byte(x.r.URL.Path))
	part([]byte(x.r.URL.RawQuery))
	for _, name := range [...]string{"Content-Type", "If-Match", "If-None-Match"} {
		values := x.r.Header[name]
		binary.BigEndian.PutUint64(n[:], uint64(len(values)))
		d.Write(n[:])
		for _, v := range values {
			part([]byte(v))
		}
	}
	part(body)
	return max(d.Sum64(), 1)
}
