package httpd

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// expiryLayout writes times of expiry, in UTC.
const expiryLayout = "2006-01-02T15:04:05.000Z07:00"

// Names of response headers, in canonical form.
const (
	headerVersion     = "Quorate-Version"
	headerExpires     = "Quorate-Expires"
	headerShard       = "Quorate-Shard"
	headerServedBy    = "Quorate-Served-By"
	headerConsistency = "Quorate-Consistency"
	headerAsked       = "Quorate-Consistency-Asked" // where it is not what was served
	headerDeleted     = "Quorate-Deleted"
	headerReplayed    = "Quorate-Replayed"
)

// headerSlab makes response headers with two allocations however many there
// are: their texts are written into one buffer, their values share one slice.
type headerSlab struct {
	h     http.Header
	names [8]string
	ends  [8]int
	n     int
	buf   []byte
}

func (s *headerSlab) mark(name string) {
	s.names[s.n], s.ends[s.n] = name, len(s.buf)
	s.n++
}

func (s *headerSlab) set() {
	text := string(s.buf)
	values := make([]string, s.n)
	start := 0
	for i := range s.n {
		values[i] = text[start:s.ends[i]]
		s.h[s.names[i]] = values[i : i+1 : i+1]
		start = s.ends[i]
	}
}

// served writes who answered.
func (s *headerSlab) served(x *exchange, served kv.Served) {
	if served.Shard != 0 {
		s.buf = strconv.AppendUint(s.buf, uint64(served.Shard), 10)
		s.mark(headerShard)
	}
	if served.Node == x.s.opts.Self {
		s.h[headerServedBy] = x.s.self
	} else if served.Node != 0 {
		s.buf = appendNodeID(s.buf, served.Node)
		s.mark(headerServedBy)
	}
	switch served.Consistency {
	case "":
	case kv.Linearizable:
		s.h[headerConsistency] = headerLinearizable
	default:
		s.buf = append(s.buf, served.Consistency...)
		s.mark(headerConsistency)
	}
}

// version writes the entity tag and the version.
func (s *headerSlab) version(v uint64) {
	s.buf = append(s.buf, '"')
	s.buf = strconv.AppendUint(s.buf, v, 10)
	s.buf = append(s.buf, '"')
	s.mark("Etag")
	s.plainVersion(v)
}

func (s *headerSlab) plainVersion(v uint64) {
	s.buf = strconv.AppendUint(s.buf, v, 10)
	s.mark(headerVersion)
}

func (s *headerSlab) expires(ms int64) {
	if ms != 0 {
		s.buf = time.UnixMilli(ms).UTC().AppendFormat(s.buf, expiryLayout)
		s.mark(headerExpires)
	}
}

var headerLinearizable = []string{string(kv.Linearizable)}

func appendNodeID(b []byte, n kv.NodeID) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// getKey serves GET and HEAD of one key.
func (s *Server) getKey(x *exchange) error {
	key, err := x.key()
	if err != nil {
		return err
	}
	opts, err := x.query.readOptions()
	if err != nil {
		return err
	}
	if err := x.query.done(); err != nil {
		return err
	}
	cond, err := x.conditions()
	if err != nil {
		return err
	}
	reading, err := x.data().Get(x.ctx, key, opts)
	if err != nil {
		return err
	}
	h := x.w.Header()
	slab := headerSlab{h: h, buf: x.buf[:0]}
	slab.served(x, reading.Served)
	if opts.Consistency != reading.Served.Consistency {
		h[headerAsked] = []string{string(opts.Consistency)}
	}
	it := reading.Item
	if it == nil {
		slab.set()
		x.buf = slab.buf
		return &problem{err: &kv.Error{Code: kv.CodeNotFound, Detail: "no such key", Shard: reading.Served.Shard}}
	}
	if err := x.takeAnswer(int64(len(it.Value))); err != nil {
		return err
	}
	v := kv.Version(it.Version)
	if cond.match.given && !cond.match.has(v) {
		slab.set()
		x.buf = slab.buf
		return &problem{err: &kv.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied,
			Detail: "If-Match does not name the current version", Version: v, Shard: reading.Served.Shard}}
	}
	slab.version(it.Version)
	slab.expires(it.ExpiresMs)
	h["Cache-Control"] = headerNoStore
	if cond.noneMatch.given && cond.noneMatch.has(v) {
		slab.set()
		x.buf = slab.buf
		x.WriteHeader(http.StatusNotModified)
		return nil
	}
	slab.buf = strconv.AppendInt(slab.buf, int64(len(it.Value)), 10)
	slab.mark("Content-Length")
	if it.ContentType == "" {
		h["Content-Type"] = headerOctets
	} else {
		slab.buf = append(slab.buf, it.ContentType...)
		slab.mark("Content-Type")
	}
	h["X-Content-Type-Options"] = headerNoSniff
	h["Content-Security-Policy"] = headerSandbox
	slab.set()
	x.buf = slab.buf
	x.WriteHeader(http.StatusOK)
	x.writeBody(it.Value)
	return nil
}

// write is one single-key transaction with all its parts in one allocation.
type write struct {
	txn  kvpb.Txn
	op   kvpb.Op
	ops  [1]*kvpb.Op
	cond conditions
}

// newWrite reads what all writes of one key share. extra lists headers that
// belong to the request's fingerprint beside its conditions.
func (x *exchange) newWrite(kind kvpb.OpKind, ttl bool) (*write, error) {
	key, err := x.key()
	if err != nil {
		return nil, err
	}
	w := &write{}
	w.op.Kind, w.op.Key = kind, key
	w.ops[0] = &w.op
	w.txn.Then = w.ops[:]
	if ttl {
		if text, ok := x.query.take("ttl"); ok {
			if w.op.TtlMs, err = ttlMillis(text); err != nil {
				return nil, err
			}
		}
	}
	if w.cond, err = x.conditions(); err != nil {
		return nil, err
	}
	if w.cond.match.given || w.cond.noneMatch.given {
		w.txn.Guards = w.cond.guards(nil, key)
	}
	return w, nil
}

// apply sends the write and answers for what all writes share. The result is nil
// if err is not.
func (x *exchange) apply(w *write, body []byte) (*kvpb.TxnResult, *kvpb.OpResult, kv.Written, error) {
	id, err := x.requestID(body)
	if err != nil {
		return nil, nil, kv.Written{}, err
	}
	written, err := x.data().Txn(x.ctx, &w.txn, id)
	if err != nil {
		return nil, nil, written, err
	}
	res := written.Result
	if err := conditionFailed(res, written.Served.Shard); err != nil {
		slab := headerSlab{h: x.w.Header(), buf: x.buf[:0]}
		slab.written(x, written)
		slab.set()
		err.guard = 0 // the guards here are headers: there is nothing to number
		return nil, nil, written, err
	}
	if len(res.Ops) != 1 {
		return nil, nil, written, kv.Errorf(kv.CodeInternal, kv.OutcomeUnknown, "a write of one operation was answered with %d results", len(res.Ops))
	}
	return res, res.Ops[0], written, nil
}

// conditionFailed gives the problem of a transaction whose guards were false.
func conditionFailed(res *kvpb.TxnResult, shard kv.ShardID) *problem {
	if res.Status != kvpb.Status_STATUS_CONDITION_FAILED {
		return nil
	}
	return &problem{
		err: &kv.Error{Code: kv.CodeConditionFailed, Outcome: kv.OutcomeNotApplied, Detail: "the key has another version",
			Version: kv.Version(res.CurrentVersion), Shard: shard},
		guard: int(res.FailedGuard) + 1,
	}
}

// written writes who answered a write and whether it was a replay.
func (s *headerSlab) written(x *exchange, w kv.Written) {
	s.served(x, w.Served)
	if w.Replayed {
		s.h[headerReplayed] = headerTrue
	}
}

// putKey serves PUT of one key.
func (s *Server) putKey(x *exchange) error {
	w, err := x.newWrite(kvpb.OpKind_OP_PUT, true)
	if err != nil {
		return err
	}
	if err := x.query.done(); err != nil {
		return err
	}
	ct, _, err := x.header("Content-Type")
	if err == nil {
		err = checkContentType(ct)
	}
	if err != nil {
		return err
	}
	if err := x.plainBody(); err != nil {
		return err
	}
	if len(x.r.Header["Content-Range"]) > 0 {
		return invalid("a part of a value cannot be put (Content-Range)")
	}
	body, err := x.readBody(kv.RawBodyBytesMax)
	if err != nil {
		return err
	}
	w.op.Value, w.op.ContentType = body, ct
	res, op, written, err := x.apply(w, body)
	if err != nil {
		return err
	}
	slab := headerSlab{h: x.w.Header(), buf: x.buf[:0]}
	slab.written(x, written)
	slab.version(res.Version)
	slab.expires(op.ExpiresMs)
	slab.set()
	x.buf = slab.buf
	if op.Found {
		x.WriteHeader(http.StatusNoContent)
	} else {
		x.w.Header()["Content-Length"] = headerZero
		x.WriteHeader(http.StatusCreated)
	}
	return nil
}

// checkContentType holds a stored Content-Type to what may be served again.
func checkContentType(ct string) error {
	if len(ct) > kv.ContentTypeBytesMax {
		p := invalid("the content type has more than " + strconv.Itoa(kv.ContentTypeBytesMax) + " bytes")
		p.limit = kv.ContentTypeBytesMax
		return p
	}
	for i := range len(ct) {
		if ct[i] < ' ' || ct[i] > '~' {
			return invalid("the content type is not printable ASCII")
		}
	}
	return nil
}

// deleteKey serves DELETE of one key.
func (s *Server) deleteKey(x *exchange) error {
	w, err := x.newWrite(kvpb.OpKind_OP_DELETE, false)
	if err != nil {
		return err
	}
	if err := x.query.done(); err != nil {
		return err
	}
	if err := x.noBody(); err != nil {
		return err
	}
	res, op, written, err := x.apply(w, nil)
	if err != nil {
		return err
	}
	h := x.w.Header()
	slab := headerSlab{h: h, buf: x.buf[:0]}
	slab.written(x, written)
	if op.Deleted > 0 {
		h[headerDeleted] = headerOne
		slab.plainVersion(res.Version)
	} else {
		h[headerDeleted] = headerZero
	}
	slab.set()
	x.buf = slab.buf
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// addKey serves POST ?op=add: an atomic counter.
func (s *Server) addKey(x *exchange) error {
	op, _ := x.query.take("op")
	if op != "add" {
		return invalid("query: op: want add")
	}
	w, err := x.newWrite(kvpb.OpKind_OP_ADD, true)
	if err != nil {
		return err
	}
	text, ok := x.query.take("delta")
	w.op.Delta, err = strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return invalid("query: delta: want a decimal number of 64 bits")
	}
	if err := x.plain(); err != nil {
		return err
	}
	if err := x.noBody(); err != nil {
		return err
	}
	res, out, written, err := x.apply(w, nil)
	if err != nil {
		return err
	}
	slab := headerSlab{h: x.w.Header(), buf: x.buf[:0]}
	slab.written(x, written)
	slab.version(res.Version)
	slab.expires(out.ExpiresMs)
	slab.set()
	b := append(slab.buf[:0], `{"value":"`...)
	b = strconv.AppendInt(b, out.Number, 10)
	b = append(b, `","version":"`...)
	b = strconv.AppendUint(b, res.Version, 10)
	b = appendExpires(append(b, '"'), out.ExpiresMs)
	x.buf = append(b, '}')
	x.replyJSON(x.buf)
	return nil
}

// prefixEnd gives the least key above all that begin with prefix, nil if there
// is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}
