package store

import (
	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/kv/planted"
)

// A request of independent transactions reaches shards in parts, one for each
// shard that owns some of its keys. When it is sent again, shards may have been
// split or merged, and the parts are cut elsewhere. So each transaction is
// remembered by the request's id and its number in the whole: a part answers from
// memory what was applied as part of another, and applies the rest.
//
// What a part newly applies is one record. Its id is made of the request's and of the
// least number in it. No two records of a request hold the same transaction, in
// whatever shards they were written, so their ids differ and may meet in a merge;
// and a record that holds number n has an id made of n or less, so that all of
// them are found.

// partOf gives the identity of the record whose least number is given. The ids of
// all of a request's share their first half.
func partOf(q *kvpb.RequestID, ordinal uint32) *kvpb.RequestID {
	return &kvpb.RequestID{
		Hi:       mix(q.Hi ^ mix(q.Lo^0xa0761d6478bd642f)),
		Lo:       mix(q.Lo^mix(q.Hi^0xe7037ed1a0b428db)) + uint64(ordinal),
		IssuedMs: q.IssuedMs, Fingerprint: q.Fingerprint,
	}
}

// part applies a command with ordinals.
func (a *applier) part(c *kvpb.Command, version kv.Version) ([]byte, error) {
	res := &kvpb.Result{Status: kvpb.Status_STATUS_OK, Txns: make([]*kvpb.TxnResult, len(c.Txns))}
	missing, refusal, err := a.recall(c, res.Txns)
	switch {
	case err != nil:
		return nil, err
	case refusal != nil:
		return encodeResult(refusal)
	case missing == 0:
		res.Replayed = true
		return encodeResult(res)
	case c.Request.IssuedMs < a.st.floors.requestFloor:
		return encodeResult(requestTooOld())
	case !a.ownsAll(c):
		return encodeResult(a.wrongShard())
	}
	fresh := &kvpb.Result{Status: kvpb.Status_STATUS_OK}
	budget := newBudget()
	for i, t := range c.Txns {
		if res.Txns[i] != nil {
			continue
		}
		if res.Txns[i], err = a.transaction(t, version+kv.Version(i), &budget); err != nil {
			return nil, err
		}
		fresh.Txns = append(fresh.Txns, res.Txns[i])
		fresh.Ordinals = append(fresh.Ordinals, c.Ordinals[i])
	}
	encoded, err := encodeResult(fresh)
	if err != nil {
		return nil, err
	}
	a.remember(partOf(c.Request, fresh.Ordinals[0]), encoded)
	return encodeResult(res)
}

// recall fills in the results of the transactions of a part that are remembered
// and counts the others. A refusal says that the id belongs to another request.
func (a *applier) recall(c *kvpb.Command, results []*kvpb.TxnResult) (missing int, refusal *kvpb.Result, err error) {
	missing = len(results)
	if planted.On(planted.NoDeduplication) {
		return missing, nil, nil
	}
	if a.known.excludes(idOf(partOf(c.Request, 0))) {
		return missing, nil, nil
	}
	at := make(map[uint32]int, len(c.Ordinals))
	for i, o := range c.Ordinals {
		at[o] = i
	}
	for o := uint32(0); o <= c.Ordinals[len(c.Ordinals)-1]; o++ {
		record, found, used, err := a.lookUpRequest(partOf(c.Request, o))
		switch {
		case err != nil:
			return 0, nil, err
		case used:
			return 0, requestMismatch(), nil
		case !found:
			continue
		}
		var res kvpb.Result
		if err := proto.Unmarshal(record, &res); err != nil || len(res.Ordinals) != len(res.Txns) {
			return 0, nil, errChecksum
		}
		for i, o := range res.Ordinals {
			if place, asked := at[o]; asked && results[place] == nil {
				res.Txns[i].Replayed = true
				results[place] = res.Txns[i]
				missing--
			}
		}
	}
	return missing, nil, nil
}

func requestTooOld() *kvpb.Result {
	return &kvpb.Result{
		Status: kvpb.Status_STATUS_REQUEST_TOO_OLD,
		Detail: "the request was issued before the window of remembered ids",
	}
}

func requestMismatch() *kvpb.Result {
	return &kvpb.Result{
		Status: kvpb.Status_STATUS_REQUEST_MISMATCH,
		Detail: "the request id was used with another content",
	}
}
