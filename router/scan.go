package router

import (
	"bytes"
	"context"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// Scan reads one page of a range, in order over all shards; each shard's part is
// read in one view and as consistently as Get reads, but the parts are read one
// after another. Keys that are folded into a common prefix are reported once,
// even if they lie in several shards. If More, the request with Start (reverse:
// End) replaced by Resume gives the next page; it may turn out to be empty. Errors are
// those of Get.
func (r *Router) Scan(ctx context.Context, req kv.ScanRequest) (kv.Page, error) {
	if err := checkScan(req); err != nil {
		return kv.Page{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	w := newWalk(req)
	for !w.done {
		if err := r.scanShard(ctx, w); err != nil {
			return kv.Page{}, err
		}
	}
	return w.page, nil
}

func checkScan(req kv.ScanRequest) error {
	switch {
	case req.Limit < 0 || req.Limit > kv.ScanItemsMax:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "a limit of %d; want 1 to %d", req.Limit, kv.ScanItemsMax)
	case req.LimitBytes < 0 || req.LimitBytes > kv.ScanBytesMax:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "a limit of %d bytes; want 1 to %d", req.LimitBytes, kv.ScanBytesMax)
	case req.PrefixLen < 0 || req.PrefixLen > kv.KeyBytesMax:
		return kv.Errorf(kv.CodeInvalid, kv.OutcomeNone, "a prefix of %d bytes; want 0 to %d", req.PrefixLen, kv.KeyBytesMax)
	}
	return checkRead(req.Read)
}

// scanShard reads the next shard's part of the page.
func (r *Router) scanShard(ctx context.Context, w *walk) error {
	a := attempts{r: r, op: OpRead}
	for {
		d, err := r.nextShard(w)
		if err == nil {
			var resp *kvpb.ReadResponse
			var served kv.Served
			resp, served, err = r.readOnce(ctx, &a, d, &kvpb.ReadRequest{Scan: w.ask()}, w.req.Read)
			if err == nil {
				err = w.take(d, resp, served)
			}
			if err == nil {
				return nil
			}
			if kv.CodeOf(err) == kv.CodeWrongShard && resp != nil {
				r.learn(resp.Descriptor_, resp.Sibling, served.Node)
				r.askBeyond(ctx, &a, d, resp.Descriptor_)
			}
		}
		if err := a.again(ctx, err); err != nil {
			return err
		}
	}
}

// askBeyond learns from a shard that turned out to end before it was thought to
// who has the keys from there on: that is in the refusal of a get, not of a scan.
func (r *Router) askBeyond(ctx context.Context, a *attempts, asked, owned *kvpb.ShardDescriptor) {
	if end := owned.GetEnd(); len(end) > 0 && (len(asked.End) == 0 || bytes.Compare(end, asked.End) < 0) {
		// Whatever comes of it, the scan goes by the map.
		_, _, _ = r.readLeader(ctx, a, asked, &kvpb.ReadRequest{Gets: [][]byte{end}}, kv.ReadOptions{})
	}
}

// nextShard gives the shard in which the rest of the range begins: forwards that
// of its first key, backwards that of the keys just below its end.
func (r *Router) nextShard(w *walk) (*kvpb.ShardDescriptor, error) {
	if !w.req.Reverse {
		return r.locate(w.lo, kv.OutcomeNone)
	}
	if all := r.shards.Overlapping(w.lo, w.hi); len(all) > 0 {
		if d := all[len(all)-1]; reaches(d, w.hi) {
			return d, nil
		}
	}
	return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "this node does not know yet which shard owns the end of the range")
}

// reaches reports whether a descriptor's range holds the keys just below end
// (empty = no bound), if it holds any below it.
func reaches(d *kvpb.ShardDescriptor, end []byte) bool {
	if len(end) == 0 {
		return len(d.End) == 0
	}
	return bytes.Compare(d.Start, end) < 0 && (len(d.End) == 0 || bytes.Compare(end, d.End) <= 0)
}

// walk is a page in the making: [lo, hi) is what was not looked at yet, and
// shrinks from its lower end forwards, from its upper end backwards (invariant 7).
type walk struct {
	req        kv.ScanRequest
	lo, hi     []byte // an empty hi has no bound
	itemsLeft  int
	bytesLeft  int
	lastPrefix []byte // the latest common prefix; nil before the first
	page       kv.Page
	done       bool
}

func newWalk(req kv.ScanRequest) *walk {
	w := &walk{req: req, lo: req.Start, hi: req.End, itemsLeft: req.Limit, bytesLeft: req.LimitBytes}
	orDefault(&w.itemsLeft, kv.ScanItemsDefault)
	orDefault(&w.bytesLeft, kv.ScanBytesMax)
	w.done = w.emptied()
	return w
}

// emptied reports whether [lo, hi) has no key. A nil slice and an empty one are the
// same bound, so a walk that has come to the end of all keys sets done instead.
func (w *walk) emptied() bool { return len(w.hi) > 0 && bytes.Compare(w.lo, w.hi) >= 0 }

// ask gives what the next shard is asked. The shard clips it to its range.
func (w *walk) ask() *kvpb.Scan {
	return &kvpb.Scan{
		Start:      w.lo,
		End:        w.hi,
		Reverse:    w.req.Reverse,
		Limit:      uint32(w.itemsLeft),
		LimitBytes: uint32(w.bytesLeft),
		KeysOnly:   w.req.KeysOnly,
		Delimiter:  w.req.Delimiter,
		PrefixLen:  uint32(w.req.PrefixLen),
	}
}

// take adds a shard's answer to the page and moves on. The error is
// kv.CodeWrongShard if the shard does not own the place where the rest begins; then
// nothing was taken.
func (w *walk) take(asked *kvpb.ShardDescriptor, resp *kvpb.ReadResponse, served kv.Served) error {
	d := resp.Descriptor_
	if d == nil {
		d = asked
	}
	if w.req.Reverse && !reaches(d, w.hi) || !w.req.Reverse && !owns(d, w.lo) {
		return statusError(OpRead, served.Shard, kvpb.Status_STATUS_WRONG_SHARD, "")
	}
	size := 0
	for _, item := range resp.Items {
		size += len(item.Key) + len(item.Value)
	}
	for _, prefix := range resp.CommonPrefixes {
		size += len(prefix)
	}
	if size > w.bytesLeft && len(w.page.Items)+len(w.page.CommonPrefixes) > 0 {
		// A shard always gives one item, however large. It begins the next page.
		w.stop()
		return nil
	}
	w.page.Items = append(w.page.Items, resp.Items...)
	w.page.CommonPrefixes = append(w.page.CommonPrefixes, resp.CommonPrefixes...)
	w.page.Served = append(w.page.Served, served)
	if n := len(resp.CommonPrefixes); n > 0 {
		w.lastPrefix = resp.CommonPrefixes[n-1]
	}
	w.itemsLeft -= len(resp.Items) + len(resp.CommonPrefixes)
	w.bytesLeft -= size
	if err := w.advance(d, resp.Resume); err != nil {
		return err
	}
	if !w.done && (w.itemsLeft <= 0 || w.bytesLeft <= 0) {
		w.stop()
	}
	return nil
}

// stop ends the page before the end of the range.
func (w *walk) stop() {
	w.done, w.page.More = true, true
	w.page.Resume = w.lo
	if w.req.Reverse {
		w.page.Resume = w.hi
	}
}

// advance moves past what a shard with the range of d has answered: to resume,
// or, if that is empty, to the end of the shard.
func (w *walk) advance(d *kvpb.ShardDescriptor, resume []byte) error {
	if w.req.Reverse {
		return w.advanceDown(d, resume)
	}
	next := resume
	if len(next) == 0 {
		if next = d.End; len(next) == 0 {
			w.done = true
			return nil
		}
	}
	if w.lastPrefix != nil && bytes.HasPrefix(next, w.lastPrefix) {
		// The rest of the folded keys may lie in the next shard.
		if next = prefixEnd(w.lastPrefix); next == nil {
			w.done = true
			return nil
		}
	}
	if bytes.Compare(next, w.lo) <= 0 {
		return errStuck(d)
	}
	w.lo = next
	w.done = w.emptied()
	return nil
}

func (w *walk) advanceDown(d *kvpb.ShardDescriptor, resume []byte) error {
	next := resume
	if len(next) == 0 {
		if next = d.Start; len(next) == 0 {
			w.done = true
			return nil
		}
	}
	if w.lastPrefix != nil && bytes.HasPrefix(next, w.lastPrefix) {
		next = w.lastPrefix
	}
	if len(w.hi) > 0 && bytes.Compare(next, w.hi) >= 0 {
		return errStuck(d)
	}
	w.hi = next
	w.done = w.emptied()
	return nil
}

// errStuck is about an answer that would have the walk go on for ever.
func errStuck(d *kvpb.ShardDescriptor) error {
	return kv.Errorf(kv.CodeInternal, kv.OutcomeNone, "shard %d answered a scan without going on", d.Shard)
}

// prefixEnd gives the least key above all that begin with prefix, nil if there
// is none.
func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
