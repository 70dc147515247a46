package store

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

const (
	sweepItemsDefault = 1000
	sweepItemsMax     = 10000
	// skippedMax is how many entries that are not the replica's are passed again and
	// again by those who look for what is due.
	skippedMax = 1000
)

// sweep applies COMMAND_SWEEP: first what has expired, then request ids, then old
// versions, as far as its bound allows. Floors rise at once, even where the work
// below them is not finished, so nothing is ever seen half collected.
func (a *applier) sweep(args *kvpb.SweepArgs, v kv.Version) (*kvpb.Result, error) {
	left := sweepItemsDefault
	if args.MaxItems > 0 {
		left = int(min(args.MaxItems, sweepItemsMax))
	}
	f := &a.st.floors
	f.requestFloor = max(f.requestFloor, args.RequestFloorMs)
	f.horizon = max(f.horizon, min(kv.Version(args.RetainFromVersion), a.st.applied.LastVersion))
	var more [3]bool
	var err error
	if more[0], err = a.sweepExpired(args.ExpireBeforeMs, v, &left); err != nil {
		return nil, err
	}
	if more[1], err = a.sweepRequests(&left); err != nil {
		return nil, err
	}
	if more[2], err = a.sweepVersions(&left); err != nil {
		return nil, err
	}
	return &kvpb.Result{Status: kvpb.Status_STATUS_OK, More: more[0] || more[1] || more[2]}, nil
}

// due is an index entry that a sweep has to deal with. It owns its slices.
type due struct {
	n       uint64 // time or version
	key     []byte // what follows in the index
	full    []byte // the whole engine key
	content []byte
}

// collectDue lists the replica's entries of an index table in [from, below), as many
// as *left allows, which it lowers. next is where the following sweep has to begin;
// more tells that it would find something at once.
func (a *applier) collectDue(table byte, from, below uint64, left *int) (out []due, next uint64, more bool, err error) {
	m, err := openDue(a.newest(), a.st.indexSources(), table, from, below)
	if err != nil {
		return nil, 0, false, err
	}
	defer func() { err = closeWith(m, err) }()
	for ok := m.First(); ok; ok = m.Next() {
		n, key, parsed := parseIndexKey(m.Key())
		if !parsed {
			return nil, 0, false, errChecksum
		}
		if *left == 0 {
			return out, n, true, nil
		}
		content, err := m.content()
		if err != nil {
			return nil, 0, false, err
		}
		*left--
		d := due{n: n, full: append([]byte(nil), m.Key()...), content: append([]byte(nil), content...)}
		d.key = d.full[len(d.full)-len(key):]
		out = append(out, d)
	}
	return out, below, false, m.Error()
}

// openDue opens a walk over the entries of a table in [from, below).
func openDue(src iterSource, sources []source, table byte, from, below uint64) (*merged, error) {
	return openMerged(src, sources, table, binary.BigEndian.AppendUint64(nil, from), binary.BigEndian.AppendUint64(nil, below))
}

// sweepExpired deletes the keys whose expiry is at or below a time, at version v.
func (a *applier) sweepExpired(beforeMs int64, v kv.Version, left *int) (more bool, err error) {
	below := uint64(beforeMs) + 1
	f := &a.st.floors
	if below <= uint64(f.expireFrom) {
		return false, nil
	}
	found, next, more, err := a.collectDue(tableExpiry, uint64(f.expireFrom), below, left)
	if err != nil {
		return false, err
	}
	defer a.txn.reset()
	for _, d := range found {
		t, err := a.touch(d.key)
		if err != nil {
			return false, err
		}
		if !t.now.exists() || uint64(t.now.expiresMs) != d.n {
			return false, errChecksum // the index and the record do not agree
		}
		t.remove()
	}
	a.commitTxn(v)
	f.expireFrom = int64(min(next, math.MaxInt64))
	return more, nil
}

// sweepVersions collects what was superseded below the horizon, and the
// tombstones that superseded it. It reads only the change index (S7). A
// version at v that was superseded at w is seen by reads in [v, w), so with w
// below the horizon nobody may ask for it any more. A tombstone below the horizon
// hides nothing by then: what it superseded goes with it, and the sweeps go in
// order of versions.
func (a *applier) sweepVersions(left *int) (more bool, err error) {
	f := &a.st.floors
	if f.horizon <= f.changeFrom {
		return false, nil
	}
	found, next, more, err := a.collectDue(tableChanges, uint64(f.changeFrom), uint64(f.horizon), left)
	if err != nil {
		return false, err
	}
	for _, d := range found {
		space := a.st.spaceOf(d.key)
		change, err := decodeChange(d.content)
		if err != nil {
			return false, err
		}
		if change.prevVersion != 0 {
			a.kbuf = dataKey(a.kbuf[:0], space, d.key, change.prevVersion)
			a.batch.Delete(a.kbuf)
			a.count(d.key, 0, -int64(len(d.key))-int64(change.prevBytes))
		}
		if change.deleted {
			a.kbuf = dataKey(a.kbuf[:0], space, d.key, kv.Version(d.n))
			a.batch.Delete(a.kbuf)
		}
		a.batch.Delete(d.full)
	}
	f.changeFrom = kv.Version(next)
	return more, nil
}

// SweepPolicy says what may go. Zero fields keep it for ever.
type SweepPolicy struct {
	RequestWindow time.Duration // how long request ids are remembered
	Retention     time.Duration // how long superseded versions are kept
	MaxItems      uint32        // bound of one sweep; 0 = a default
}

// SweepCommand gives the command that removes what is due at nowMs, and whether
// anything is. It looks at the head of three indexes and may be asked every second. The
// command uses one version.
func (r *Replica) SweepCommand(nowMs int64, p SweepPolicy) (*kvpb.Command, bool) {
	if err := r.db.enter(); err != nil {
		return nil, false
	}
	defer r.db.leave()
	v, err := r.view()
	if err != nil {
		r.log.Warn("cannot look for what is due", "error", err)
		return nil, false
	}
	defer v.it.Close()
	if v.frozen.index != 0 {
		return nil, false
	}
	args := &kvpb.SweepArgs{MaxItems: p.MaxItems}
	any := false
	first := func(sources []source, table byte, from, below uint64) bool {
		if below <= from || err != nil {
			return false
		}
		var found bool
		found, err = anyDue(sameView{v.it}, sources, table, from, below)
		any = any || found
		return found
	}
	if first(v.indexSources(), tableExpiry, uint64(v.floors.expireFrom), uint64(max(nowMs, 0))+1) {
		args.ExpireBeforeMs = nowMs
	}
	if floor := nowMs - p.RequestWindow.Milliseconds(); p.RequestWindow > 0 && floor > 0 &&
		first(v.homeSources(tableByIssued), tableByIssued, uint64(v.floors.requestFrom), uint64(floor)) {
		args.RequestFloorMs = floor
	}
	if from := nowMs - p.Retention.Milliseconds(); p.Retention > 0 && from > 0 {
		horizon := min(kv.VersionAt(from), v.applied.LastVersion)
		if first(v.indexSources(), tableChanges, uint64(v.floors.changeFrom), uint64(horizon)) {
			args.RetainFromVersion = uint64(horizon)
		}
	}
	if err != nil {
		r.log.Warn("cannot look for what is due", "error", err)
		return nil, false
	}
	if !any {
		return nil, false
	}
	return &kvpb.Command{Kind: kvpb.CommandKind_COMMAND_SWEEP, Sweep: args}, true
}

// anyDue reports whether a sweep of [from, below) would find something, or would
// have so much to skip that the next look had better begin behind it.
func anyDue(src iterSource, sources []source, table byte, from, below uint64) (bool, error) {
	m, err := openDue(src, sources, table, from, below)
	if err != nil {
		return false, err
	}
	found := m.First()
	return found || m.skipped > skippedMax, closeWith(m, m.Error())
}
