package store

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// rangeDeletesMax bounds the keys that all range deletes of a command remove.
const rangeDeletesMax = 10 * kv.OpsMax

// budget bounds what the transactions of one command may answer and remove.
type budget struct {
	bytes   int // of values that OP_GET answers
	deletes int // of keys by OP_DELETE_RANGE
}

func newBudget() budget { return budget{bytes: kv.CommandBytesMax, deletes: rangeDeletesMax} }

// refusal is why a transaction cannot be applied. It is part of its result, not
// a failure of the replica.
type refusal struct {
	status kvpb.Status
	detail string
}

func (r *refusal) Error() string { return r.detail }

// The refusals; all but the last leave the transaction free to be corrected.
var (
	errNotNumber = &refusal{kvpb.Status_STATUS_CONFLICT, "the value is not a decimal 64-bit integer"}
	errOverflow  = &refusal{kvpb.Status_STATUS_CONFLICT, "the sum does not fit 64 bits"}
	errAnswerBig = &refusal{kvpb.Status_STATUS_BAD_COMMAND, "the values that are asked for exceed " + strconv.Itoa(kv.CommandBytesMax) + " bytes"}
)

// transaction applies one transaction, whole or not at all. An error means that
// the storage failed.
func (a *applier) transaction(t *kvpb.Txn, v kv.Version, left *budget) (*kvpb.TxnResult, error) {
	defer a.txn.reset()
	res := &kvpb.TxnResult{Status: kvpb.Status_STATUS_OK, CommittedVersion: uint64(v)}
	failed, current, err := a.guards(t.Guards)
	if err != nil {
		return nil, err
	}
	ops := t.Then
	if res.Succeeded = failed < 0; !res.Succeeded {
		if len(t.Otherwise) == 0 {
			res.Status = kvpb.Status_STATUS_CONDITION_FAILED
			res.FailedGuard, res.CurrentVersion = uint32(failed), uint64(current)
			return res, nil
		}
		ops = t.Otherwise
	}
	after := *left
	slab := make([]kvpb.OpResult, len(ops))
	res.Ops = make([]*kvpb.OpResult, len(ops))
	for i, op := range ops {
		res.Ops[i] = &slab[i]
		if err := a.op(op, v, &slab[i], &after); err != nil {
			var no *refusal
			if !errors.As(err, &no) {
				return nil, err
			}
			return &kvpb.TxnResult{Status: no.status, Detail: no.detail, CommittedVersion: uint64(v)}, nil
		}
	}
	*left = after
	if a.commitTxn(v) {
		res.Version = uint64(v)
	}
	return res, nil
}

// guards gives the index of the first guard that does not hold and its key's
// current version, or -1.
func (a *applier) guards(guards []*kvpb.Guard) (failed int, current kv.Version, err error) {
	for i, g := range guards {
		t, err := a.touch(g.Key)
		if err != nil {
			return 0, 0, err
		}
		holds, err := a.holds(g, t)
		if err != nil {
			return 0, 0, err
		}
		if !holds {
			return i, t.now.version, nil
		}
	}
	return -1, 0, nil
}

func (a *applier) holds(g *kvpb.Guard, t *touched) (bool, error) {
	switch g.Kind {
	case kvpb.GuardKind_GUARD_EXISTS:
		return t.now.exists(), nil
	case kvpb.GuardKind_GUARD_ABSENT:
		return !t.now.exists(), nil
	case kvpb.GuardKind_GUARD_VERSION_EQ:
		return t.now.exists() && (containsVersion(g.Versions, t.now.version) || planted.On(planted.ForgottenCondition)), nil
	case kvpb.GuardKind_GUARD_VERSION_NE:
		return !t.now.exists() || !containsVersion(g.Versions, t.now.version), nil
	default: // GUARD_VALUE_EQ; checkCommand lets no other pass
		if !t.now.exists() || t.now.valueLen != len(g.Value) {
			return false, nil
		}
		rec, err := a.record(t)
		return err == nil && bytes.Equal(rec.value, g.Value), err
	}
}

func containsVersion(versions []uint64, v kv.Version) bool {
	for _, x := range versions {
		if x == uint64(v) {
			return true
		}
	}
	return false
}

// op evaluates one operation over what the transaction has done so far.
func (a *applier) op(op *kvpb.Op, v kv.Version, out *kvpb.OpResult, left *budget) error {
	if op.Kind == kvpb.OpKind_OP_DELETE_RANGE {
		return a.deleteRange(op, out, left)
	}
	t, err := a.touch(op.Key)
	if err != nil {
		return err
	}
	out.Found, out.PreviousVersion = t.now.exists(), uint64(t.now.version)
	switch op.Kind {
	case kvpb.OpKind_OP_PUT:
		out.ExpiresMs = a.expiry(op.TtlMs)
		a.put(t, v, out.ExpiresMs, op.ContentType, op.Value)
	case kvpb.OpKind_OP_DELETE:
		if t.now.exists() {
			t.remove()
			out.Deleted = 1
		}
	case kvpb.OpKind_OP_ADD:
		return a.add(op, t, v, out)
	case kvpb.OpKind_OP_GET:
		if !t.now.exists() {
			return nil
		}
		if left.bytes -= len(t.key) + t.now.valueLen; left.bytes < 0 {
			return errAnswerBig
		}
		out.Item, err = a.item(t)
		return err
	}
	return nil
}

// expiry gives the time at which a time to live ends, 0 for none.
func (a *applier) expiry(ttlMs int64) int64 {
	if ttlMs == 0 {
		return 0
	}
	now := max(a.st.applied.NowMs, 0)
	if now > math.MaxInt64-ttlMs {
		return math.MaxInt64
	}
	return now + ttlMs
}

// add is OP_ADD: it keeps an expiry and a content type unless it is given others.
func (a *applier) add(op *kvpb.Op, t *touched, v kv.Version, out *kvpb.OpResult) error {
	var number int64
	expires, contentType := a.expiry(op.TtlMs), op.ContentType
	if t.now.exists() {
		rec, err := a.record(t)
		if err != nil {
			return err
		}
		if number, err = strconv.ParseInt(string(rec.value), 10, 64); err != nil {
			return errNotNumber
		}
		if op.TtlMs == 0 {
			expires = rec.expiresMs
		}
		if contentType == "" {
			contentType = string(rec.contentType)
		}
	}
	sum := number + op.Delta
	if (op.Delta > 0) != (sum > number) && op.Delta != 0 {
		return errOverflow
	}
	out.Number, out.ExpiresMs = sum, expires
	a.put(t, v, expires, contentType, strconv.AppendInt(nil, sum, 10))
	return nil
}
