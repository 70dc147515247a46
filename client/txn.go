package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Guard is a condition of a transaction on one key.
type Guard struct {
	Key string

	// Exactly one of these says what has to hold.
	Version kv.Version // the key has this version
	Exists  *bool      // the key exists, or does not
	Value   []byte     // the key has this value; nil = not asked
}

// IfVersion holds if the key has the version.
func IfVersion(key string, v kv.Version) Guard { return Guard{Key: key, Version: v} }

// IfExists holds if there is such a key.
func IfExists(key string) Guard { yes := true; return Guard{Key: key, Exists: &yes} }

// IfAbsent holds if there is no such key.
func IfAbsent(key string) Guard { no := false; return Guard{Key: key, Exists: &no} }

// IfValue holds if the key has the value.
func IfValue(key string, value []byte) Guard {
	if value == nil {
		value = []byte{}
	}
	return Guard{Key: key, Value: value}
}

// OpKind says what an Op does.
type OpKind string

// The operations of transactions; OpGet is not for batches.
const (
	OpPut    OpKind = "put"
	OpDelete OpKind = "delete"
	OpAdd    OpKind = "add"
	OpGet    OpKind = "get"
)

// Op is one operation of a transaction or a batch.
type Op struct {
	Kind        OpKind
	Key         string
	Value       []byte        // put
	ContentType string        // put
	TTL         time.Duration // put, add; 0 = none
	Delta       int64         // add
	IfMatch     kv.Version    // batches only
	IfAbsent    bool          // batches only
}

// PutOp, DeleteOp, AddOp and GetOp make the operations.
func PutOp(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// DeleteOp removes a key.
func DeleteOp(key string) Op { return Op{Kind: OpDelete, Key: key} }

// AddOp adds to a counter.
func AddOp(key string, delta int64) Op { return Op{Kind: OpAdd, Key: key, Delta: delta} }

// GetOp reads a key.
func GetOp(key string) Op { return Op{Kind: OpGet, Key: key} }

// Txn is an atomic transaction: if all guards hold, Then is applied, or else Else.
type Txn struct {
	If   []Guard
	Then []Op
	Else []Op

	IdempotencyKey string // "" = one made for this call
}

// TxnResult answers a Txn.
type TxnResult struct {
	Succeeded bool       // the guards held, Then ran
	Version   kv.Version // of everything that it wrote; 0 if it wrote nothing
	Results   []OpResult // of the branch that ran, in order
	Replayed  bool
	Served    Served
}

// OpResult answers an Op.
type OpResult struct {
	Err      error      // of a batch's operation: an *Error; nil within a transaction
	Status   int        // of a batch's operation: as if it had been a request of its own
	Version  kv.Version // of a batch's operation that wrote; get: the key's
	Created  bool       // put: there was no such key
	Deleted  bool       // delete: there was one
	Number   int64      // add: the value after it
	Item     *Item      // get: nil if there is no such key
	Replayed bool       // batch: applied by an earlier attempt
}

// Txn applies a transaction. If a guard is false and there is no Else, the error
// is one of which IsConditionFailed is true.
func (c *Client) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	req, err := post("/v1/txn", false, t.wire())
	if err != nil {
		return TxnResult{}, err
	}
	req.idempotencyKey = t.IdempotencyKey
	req.key, req.route = t.firstKey()
	resp, err := c.do(ctx, &req)
	if err != nil {
		return TxnResult{}, err
	}
	var body struct {
		Succeeded bool           `json:"succeeded"`
		Version   decimal        `json:"version"`
		Results   []wireOpResult `json:"results"`
	}
	if err := decodeBody(&resp, &body); err != nil {
		return TxnResult{}, c.garbled(&req, &resp, err)
	}
	out := TxnResult{Succeeded: body.Succeeded, Version: kv.Version(body.Version), Replayed: resp.replayed, Served: resp.served()}
	ran := t.Then
	if !body.Succeeded {
		ran = t.Else
	}
	if out.Results, err = results(body.Results, ran); err != nil {
		return TxnResult{}, c.garbled(&req, &resp, err)
	}
	return out, nil
}

// Batch applies independent operations, each atomic by itself, and answers in
// their order. The error is that of the request as a whole; where it is nil,
// single operations may still have failed.
func (c *Client) Batch(ctx context.Context, ops []Op) ([]OpResult, error) {
	in := struct {
		Ops []wireOp `json:"ops"`
	}{wireOps(ops)}
	req, err := post("/v1/batch", false, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(ctx, &req)
	if err != nil {
		return nil, err
	}
	var body struct {
		Results []wireOpResult `json:"results"`
	}
	if err := decodeBody(&resp, &body); err != nil {
		return nil, c.garbled(&req, &resp, err)
	}
	out, err := results(body.Results, ops)
	if err != nil {
		return nil, c.garbled(&req, &resp, err)
	}
	return out, nil
}

func (t *Txn) firstKey() (string, bool) {
	switch {
	case len(t.If) > 0:
		return t.If[0].Key, true
	case len(t.Then) > 0:
		return t.Then[0].Key, true
	case len(t.Else) > 0:
		return t.Else[0].Key, true
	}
	return "", false
}

type wireGuard struct {
	Key      *string `json:"key,omitempty"`
	KeyB64   []byte  `json:"key_b64,omitempty"`
	Version  string  `json:"version,omitempty"`
	Exists   *bool   `json:"exists,omitempty"`
	Value    *string `json:"value,omitempty"`
	ValueB64 []byte  `json:"value_b64,omitempty"`
}

type wireOp struct {
	Op          OpKind  `json:"op"`
	Key         *string `json:"key,omitempty"`
	KeyB64      []byte  `json:"key_b64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueB64    []byte  `json:"value_b64,omitempty"`
	ContentType string  `json:"content_type,omitempty"`
	TTL         string  `json:"ttl,omitempty"`
	Delta       string  `json:"delta,omitempty"`
	IfMatch     string  `json:"if_match,omitempty"`
	IfAbsent    bool    `json:"if_absent,omitempty"`
}

type wireTxn struct {
	If   []wireGuard `json:"if,omitempty"`
	Then []wireOp    `json:"then,omitempty"`
	Else []wireOp    `json:"else,omitempty"`
}

func (t *Txn) wire() wireTxn {
	w := wireTxn{Then: wireOps(t.Then), Else: wireOps(t.Else)}
	for _, g := range t.If {
		key := textOf(g.Key)
		out := wireGuard{Key: key.text, KeyB64: key.bytes, Exists: g.Exists}
		if g.Version != 0 {
			out.Version = g.Version.String()
		}
		if g.Value != nil {
			value := textOfBytes(g.Value)
			out.Value, out.ValueB64 = value.text, value.bytes
		}
		w.If = append(w.If, out)
	}
	return w
}

func wireOps(ops []Op) []wireOp {
	out := make([]wireOp, len(ops))
	for i, op := range ops {
		key := textOf(op.Key)
		w := wireOp{Op: op.Kind, Key: key.text, KeyB64: key.bytes, IfAbsent: op.IfAbsent}
		if op.Kind == OpPut {
			value := textOfBytes(op.Value)
			w.Value, w.ValueB64, w.ContentType = value.text, value.bytes, op.ContentType
		}
		if op.Kind == OpAdd {
			w.Delta = fmt.Sprint(op.Delta)
		}
		if op.TTL != 0 {
			w.TTL = op.TTL.String()
		}
		if op.IfMatch != 0 {
			w.IfMatch = op.IfMatch.String()
		}
		out[i] = w
	}
	return out
}

// wireOpResult is an operation's answer; in a batch it may be a problem instead.
type wireOpResult struct {
	problemFields
	itemFields         // of a get; an add's value is the number
	Version    decimal `json:"version"`
	Found      bool    `json:"found"`
	Created    bool    `json:"created"`
	Deleted    int     `json:"deleted"`
	Replayed   bool    `json:"replayed"`
}

// results reads the answers to ops, of which there are as many.
func results(in []wireOpResult, ops []Op) ([]OpResult, error) {
	if len(in) != len(ops) {
		return nil, fmt.Errorf("%d results for %d operations", len(in), len(ops))
	}
	out := make([]OpResult, len(ops))
	for i := range in {
		if err := in[i].result(ops[i].Kind, &out[i]); err != nil {
			return nil, fmt.Errorf("result %d: %w", i, err)
		}
	}
	return out, nil
}

func (w *wireOpResult) result(kind OpKind, r *OpResult) error {
	version := kv.Version(w.Version)
	r.Status = w.Status
	if w.Code != "" {
		e := w.toError(w.Status, false)
		e.Version = version
		r.Err = e
		return nil
	}
	r.Version, r.Created, r.Deleted, r.Replayed = version, w.Created, w.Deleted > 0, w.Replayed
	switch {
	case kind == OpAdd:
		n, err := strconv.ParseInt(stringOf(w.Value, w.ValueB64), 10, 64)
		if err != nil {
			return err
		}
		r.Number = n
	case w.Found:
		item := w.item(version)
		r.Item = &item
	}
	return nil
}

// ParseTxn reads a transaction in the JSON form that POST /v1/txn takes.
func ParseTxn(data []byte) (Txn, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var w wireTxn
	if err := dec.Decode(&w); err != nil {
		return Txn{}, fmt.Errorf("transaction: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Txn{}, fmt.Errorf("transaction: more than one JSON value")
	}
	var t Txn
	for i, g := range w.If {
		guard, err := g.guard()
		if err != nil {
			return Txn{}, fmt.Errorf("transaction: if[%d]: %w", i, err)
		}
		t.If = append(t.If, guard)
	}
	var err error
	if t.Then, err = parseOps("then", w.Then); err != nil {
		return Txn{}, err
	}
	t.Else, err = parseOps("else", w.Else)
	return t, err
}

func (w *wireGuard) guard() (Guard, error) {
	g := Guard{Key: stringOf(w.Key, w.KeyB64), Exists: w.Exists, Value: bytesOf(w.Value, w.ValueB64)}
	if w.Version != "" {
		v, err := kv.ParseVersion(w.Version)
		if err != nil {
			return g, err
		}
		g.Version = v
	}
	return g, nil
}

func parseOps(branch string, in []wireOp) ([]Op, error) {
	var out []Op
	for i, w := range in {
		op := Op{Kind: w.Op, Key: stringOf(w.Key, w.KeyB64), Value: bytesOf(w.Value, w.ValueB64), ContentType: w.ContentType}
		var err error
		if w.TTL != "" {
			op.TTL, err = time.ParseDuration(w.TTL)
		}
		if err == nil && w.Delta != "" {
			_, err = fmt.Sscan(w.Delta, &op.Delta)
		}
		if err == nil && (w.IfMatch != "" || w.IfAbsent) {
			err = fmt.Errorf("if_match and if_absent are for batches; use if")
		}
		if err != nil {
			return nil, fmt.Errorf("transaction: %s[%d]: %w", branch, i, err)
		}
		out = append(out, op)
	}
	return out, nil
}
