package store

import (
	"bytes"
	"context"
	"slices"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// lockRight locks the open replica of the right neighbour that an ABSORB names; nil
// if there is none, or the command will be refused anyway. A replica is locked
// before its right neighbour, never after it.
func (r *Replica) lockRight(c *kvpb.Command) *Replica {
	if c.GetKind() != kvpb.CommandKind_COMMAND_ABSORB {
		return nil
	}
	st := r.current.Load()
	if st.frozen.index != 0 || st.desc.Generation != c.Shape.Generation || !isRightOf(st.desc, c.Shape.Other) {
		return nil
	}
	r.db.mu.Lock()
	right := r.db.replicas[kv.ShardID(c.Shape.Other.Shard)]
	r.db.mu.Unlock()
	if right == nil || !bytes.Equal(right.current.Load().desc.Start, st.desc.End) {
		return nil
	}
	right.mu.Lock()
	return right
}

// settleShape does what comes after the commit of a run: db.mu is given back, and
// what is not used any more is removed. A crash in between is made up for by Open.
func (r *Replica) settleShape(s *shapeRun, st *state, failed error) {
	if failed == nil && s.absorbed != 0 {
		delete(r.db.replicas, s.absorbed)
		if s.right != nil {
			s.right.sealLocked(ErrAbsorbed)
		}
	}
	if s.locked {
		r.db.mu.Unlock()
		s.locked = false
	}
	if failed != nil {
		return
	}
	if len(s.gone.pieces)+len(s.gone.homes) > 0 {
		if err := r.db.removeUnused(s.gone); err != nil {
			r.log.Warn("what is not used any more stays until the next start", "error", err)
		}
	}
	if s.changed {
		r.dropView()
	}
	switch {
	case st.prepared.index != 0 && s.changed:
		r.keepView(st)
	case st.frozen.index != r.frozenOnDisk.Load():
		r.flushFrozen(st.frozen.index)
	}
	if v := r.prepareView.Load(); v != nil && st.applied.NowMs-v.st.applied.NowMs > viewKeptMs {
		r.dropView()
	}
}

// viewKeptMs is how long, in the shard's time, a view waits for CountRight. It
// keeps the engine from giving up what was deleted since.
const viewKeptMs = 5 * 60 * 1000

// flushFrozen makes a freeze durable before it shows: the left neighbour counts on
// finding it, also after a crash (see 0011).
func (r *Replica) flushFrozen(index uint64) {
	if index != 0 {
		if err := r.db.eng.Flush(); err != nil {
			r.log.Warn("the freeze is not on disk yet", "error", err)
			return
		}
	}
	r.frozenOnDisk.Store(index)
}

// Frozen tells at which index the shard was frozen, to be absorbed by which shard;
// zeros if it is not, or if that is not on disk yet.
func (r *Replica) Frozen() (index uint64, into kv.ShardID) {
	f := r.current.Load().frozen
	if f.index == 0 || f.index != r.frozenOnDisk.Load() {
		return 0, 0
	}
	return f.index, f.into
}

// keepView keeps the state as a prepared split finds it, for CountRight.
func (r *Replica) keepView(st *state) {
	im := &image{db: r.db, st: st, snap: r.db.eng.NewSnapshot()}
	r.db.images.add(im)
	r.prepareView.Store(im)
}

// takeView takes the view of the prepared split; nil if there is none. Whoever takes
// it closes it.
func (r *Replica) takeView() *image { return r.prepareView.Swap(nil) }

// dropView lets the view of a prepared split go. A count that is under way has taken
// it already.
func (r *Replica) dropView() {
	im := r.takeView()
	if im == nil {
		return
	}
	r.db.images.remove(im)
	if err := im.release(); err != nil {
		r.log.Warn("closing a view failed", "error", err)
	}
}

// stepsPerView bounds what SplitKey looks at in one view, and what CountRight looks
// at between two looks at its context.
const stepsPerView = 10_000

// CountRight counts the right half of the split that was prepared last: exactly what
// it held when the entry of index prepared was applied. It can be called once for
// each prepare, and reads all of the half.
func (r *Replica) CountRight(ctx context.Context) (key []byte, prepared uint64, f *kvpb.Figures, err error) {
	im := r.takeView()
	if im == nil {
		return nil, 0, nil, kv.Errorf(kv.CodeConflict, kv.OutcomeNone, "no split is prepared, or it was counted already")
	}
	defer func() { err = closeWith(im, err) }()
	if err := r.db.enter(); err != nil {
		return nil, 0, nil, asError(kv.OutcomeNone, "count", err)
	}
	defer r.db.leave()
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.snap == nil {
		return nil, 0, nil, asError(kv.OutcomeNone, "count", ErrClosed)
	}
	p := im.st.prepared
	f = &kvpb.Figures{}
	for _, c := range im.st.piecesIn(p.key, nil) {
		if err := countPiece(ctx, im.snap, &c, p.key, f); err != nil {
			if ctx.Err() == nil {
				err = asError(kv.OutcomeNone, "count", err)
			}
			return nil, 0, nil, err
		}
	}
	// The view is of the end of the prepare's entry.
	f.Keys -= p.right.keys
	f.Bytes -= p.right.bytes
	return bytes.Clone(p.key), p.index, f, nil
}

// countPiece adds what a piece holds from a key on.
func countPiece(ctx context.Context, src iterSource, c *piece, from []byte, f *kvpb.Figures) (err error) {
	it, err := src.NewIter(c.dataSpan(from, nil))
	if err != nil {
		return err
	}
	defer func() { err = closeWith(it, err) }()
	var prefix, user []byte
	steps := 0
	for ok := it.First(); ok; ok = it.Next() {
		if steps++; steps%stepsPerView == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		rec, newest, err := openNext(it, &prefix, &user)
		if err != nil {
			return err
		}
		if rec.tombstone {
			continue
		}
		f.Bytes += int64(len(user) + len(rec.value))
		if newest {
			f.Keys++
		}
	}
	return it.Error()
}

// openNext reads the record under an iterator that goes up one by one. newest tells
// that it is the first of its key. prefix and user keep the key from call to call.
func openNext(it engine.Iterator, prefix, user *[]byte) (rec record, newest bool, err error) {
	k := it.Key()
	n := splitKey(k)
	if n == len(k) {
		return record{}, false, errChecksum
	}
	if newest = !bytes.Equal(*prefix, k[:n]); newest {
		var ok bool
		if *user, ok = unescape((*user)[:0], k[headerBytes:n]); !ok {
			return record{}, false, errChecksum
		}
		*prefix = append((*prefix)[:0], k[:n]...)
	}
	value, err := it.Value()
	if err != nil {
		return record{}, false, err
	}
	rec, err = openRecord(k, value)
	return rec, newest, err
}

// SplitKey looks for the first key of the second half of the shard by bytes, made as
// short as its neighbour below allows. Not ok: there are not two keys. It reads
// about half of the shard, in views of a bounded size, while others write.
func (r *Replica) SplitKey(ctx context.Context) (key []byte, ok bool, err error) {
	s := splitSearch{half: r.current.Load().counters.bytes / 2}
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		if more, err = r.splitStep(&s); err != nil {
			return nil, false, asError(kv.OutcomeNone, "split key", err)
		}
	}
	if s.below == nil {
		return nil, false, nil
	}
	return separator(s.below, s.last), true, nil
}

// splitSearch is how far SplitKey has come: below and last are the last two keys
// that it met, nil if there were fewer; size is what all keys but last hold.
type splitSearch struct {
	half, size  int64
	below, last []byte
	lastSize    int64
}

// splitStep goes on in a fresh view; more tells that the middle is not reached.
func (r *Replica) splitStep(s *splitSearch) (more bool, err error) {
	if err := r.db.enter(); err != nil {
		return false, err
	}
	defer r.db.leave()
	v, err := r.view()
	if err != nil {
		return false, err
	}
	defer func() { err = closeWith(v.it, err) }()
	from := v.desc.Start
	if s.last != nil {
		from = append(slices.Clone(s.last), 0)
	}
	steps := 0
	for _, c := range v.piecesIn(from, nil) {
		v.it.SetBounds(c.dataSpan(from, nil))
		var prefix, user []byte
		for ok := v.it.First(); ok; ok = v.it.Next() {
			rec, newest, err := openNext(v.it, &prefix, &user)
			if err != nil {
				return false, err
			}
			steps++
			if newest {
				if s.below != nil && s.size >= s.half {
					return false, nil
				}
				if steps > stepsPerView {
					return true, nil
				}
				s.next(user)
			}
			if !rec.tombstone {
				s.lastSize += int64(len(user) + len(rec.value))
			}
		}
		if err := v.it.Error(); err != nil {
			return false, err
		}
	}
	return false, nil
}

// next goes to another key.
func (s *splitSearch) next(key []byte) {
	s.size += s.lastSize
	s.lastSize = 0
	s.below, s.last = s.last, slices.Clone(key)
}

// separator gives the shortest key above a that is not above b, for a below b.
func separator(a, b []byte) []byte {
	n := 0
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return b[:n+1]
}
