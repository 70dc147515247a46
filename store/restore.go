package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/store/engine"
)

// ErrImageOld is returned for an image at or below the applied index. Taking it
// would lose what was applied since (DESIGN §9 rule 4).
var ErrImageOld = errors.New("store: the image is not newer than the replica")

// Staged is an image whose tables are written, but belong to no replica yet. It has
// the methods of raftnode.Staged.
type Staged interface {
	// Applied tells where in the log the image stands.
	Applied() kv.Applied
	// Install replaces the replica's whole state by the image, once. It excludes Apply and
	// is durable on return. On ErrImageOld the replica goes on as it was.
	Install() error
	// Close forgets what was not installed. Closing again is no error.
	Close() error
}

// staged implements Staged by tables in the staging directory.
type staged struct {
	r  *Replica
	st *state
	in engine.Ingestion
}

// Stage reads an image to its end and checks it completely. Nothing of the replica
// changes, and Apply may run meanwhile: the tables are of a fresh space (S5). Errors
// are ErrImageOld, ErrImageCorrupt, and those of the source and the disk.
func (r *Replica) Stage(src io.Reader) (Staged, error) {
	if err := r.db.enter(); err != nil {
		return nil, asError(kv.OutcomeNone, "stage", err)
	}
	defer r.db.leave()
	s, err := r.stage(src)
	if err != nil {
		return nil, fmt.Errorf("shard %s: stage: %w", r.shard, err)
	}
	return s, nil
}

func (s *staged) Applied() kv.Applied { return s.st.applied }

func (s *staged) Close() error { return s.in.Close() }

func (s *staged) Install() error {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return asError(kv.OutcomeUnknown, "restore", r.failed)
	}
	if err := r.db.enter(); err != nil {
		return asError(kv.OutcomeUnknown, "restore", err)
	}
	defer r.db.leave()
	old := r.current.Load()
	if err := newerThan(s.st, old); err != nil {
		return fmt.Errorf("shard %s: restore: %w", r.shard, err)
	}
	if err := closeWith(s.in, s.in.Commit()); err != nil {
		return fmt.Errorf("shard %s: restore: taking over the tables: %w", r.shard, err)
	}
	if err := r.switchTo(s.st); err != nil {
		r.failed = err
		return asError(kv.OutcomeUnknown, "restore", err)
	}
	r.applier = applier{} // what it kept was of the old state
	r.dropView()
	r.frozenOnDisk.Store(s.st.frozen.index)
	r.log.Info("restored", "index", s.st.applied.Index, "keys", s.st.counters.keys)
	// From here on the restore is done. If the removal of the old tables is lost in a
	// crash, the next Open makes up for it.
	if err := r.db.removeUnused(old.placement); err != nil {
		r.log.Warn("the tables from before the restore stay until the next start", "error", err)
	}
	return nil
}

func newerThan(st, old *state) error {
	if st.applied.Index <= old.applied.Index {
		return fmt.Errorf("%w: at index %d, applied %d", ErrImageOld, st.applied.Index, old.applied.Index)
	}
	return nil
}

// switchTo makes a state durable whose tables are in place. Only with the flush may
// the log be cut: the record alone is in memory, and the tables may be on disk
// before it.
func (r *Replica) switchTo(st *state) error {
	key := stateKey(r.shard)
	b := r.db.eng.NewBatch(false)
	b.Set(key, sealedState(nil, key, st))
	if err := errors.Join(r.publish(b, st), b.Close()); err != nil {
		return err
	}
	return r.db.eng.Flush()
}

// stage reads an image into tables under a fresh space.
func (r *Replica) stage(src io.Reader) (*staged, error) {
	f := newFrameReader(src)
	st, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	if st.desc.Shard != uint64(r.shard) {
		return nil, fmt.Errorf("%w: it is of shard %d", ErrImageCorrupt, st.desc.Shard)
	}
	if err := newerThan(st, r.current.Load()); err != nil {
		return nil, err
	}
	space, homeSpace, err := r.db.spaces.allocatePair()
	if err != nil {
		return nil, err
	}
	st.placement = placeAt(st.desc, space, homeSpace)
	in, err := r.db.eng.NewIngestion()
	if err != nil {
		return nil, err
	}
	l := loader{st: st, in: in}
	if err := l.load(f); err != nil {
		return nil, closeWith(in, err)
	}
	return &staged{r: r, st: st, in: in}, nil
}

func readHeader(f *frameReader) (*state, error) {
	if err := f.magic(); err != nil {
		return nil, err
	}
	kind, content, _, err := f.frame()
	if err != nil {
		return nil, err
	}
	if kind != frameHeader {
		return nil, fmt.Errorf("%w: it has no header", ErrImageCorrupt)
	}
	st, err := decodeState(content, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImageCorrupt, err)
	}
	return st, nil
}

// loader checks the records of an image and adds them to an ingestion.
type loader struct {
	st *state
	in engine.Ingestion

	records  uint64
	counted  counters
	expiring [2]int64 // keys with an expiry: by their records, by the index
	byID     [2]int64 // requests with a fingerprint: by time, by id
	last     []byte   // key before
	lastUser []byte   // user key of the newest data record before
	key      []byte
	user     []byte
}

func (l *loader) load(f *frameReader) error {
	for {
		kind, content, before, err := f.frame()
		if err != nil {
			return err
		}
		switch kind {
		case frameBlock:
			if err := l.block(content); err != nil {
				return err
			}
		case frameEnd:
			want := append(binary.BigEndian.AppendUint64(nil, l.records), before...)
			if !bytes.Equal(content, want) {
				return fmt.Errorf("%w: its end does not match what came before", ErrImageCorrupt)
			}
			if l.counted != l.st.counters || l.expiring[0] != l.expiring[1] || l.byID[0] != l.byID[1] {
				return fmt.Errorf("%w: its counters do not match its records", ErrImageCorrupt)
			}
			return f.end()
		default:
			return fmt.Errorf("%w: a frame of kind %d", ErrImageCorrupt, kind)
		}
	}
}

// block takes the records of one frame.
func (l *loader) block(content []byte) error {
	for len(content) > 0 {
		var local, value []byte
		var ok bool
		if local, content, ok = cutBlob(content); !ok {
			return fmt.Errorf("%w: a block is malformed", ErrImageCorrupt)
		}
		if value, content, ok = cutBlob(content); !ok {
			return fmt.Errorf("%w: a block is malformed", ErrImageCorrupt)
		}
		if len(local) == 0 {
			return fmt.Errorf("%w: a record: %w", ErrImageCorrupt, errChecksum)
		}
		space := l.st.pieces[0].space
		if local[0] == tableByIssued || local[0] == tableRequests {
			space = l.st.homes[0].space
		}
		l.key = append(spacePrefix(l.key[:0], space), local...)
		if bytes.Compare(l.key, l.last) <= 0 {
			return fmt.Errorf("%w: its records are out of order", ErrImageCorrupt)
		}
		l.last = append(l.last[:0], l.key...)
		sealed, err := unseal(l.key, value)
		if err == nil {
			err = l.count(sealed)
		}
		if err != nil {
			return fmt.Errorf("%w: a record: %w", ErrImageCorrupt, err)
		}
		if err := l.in.Add(l.key, value); err != nil {
			return err
		}
		l.records++
	}
	return nil
}

// cutBlob takes a length and as many bytes off b.
func cutBlob(b []byte) (blob, rest []byte, ok bool) {
	n, m := binary.Uvarint(b)
	if m <= 0 || n > uint64(len(b)-m) {
		return nil, nil, false
	}
	return b[m : m+int(n)], b[m+int(n):], true
}

// count checks one record at l.key and adds it to the counters.
func (l *loader) count(content []byte) error {
	switch l.key[spaceBytes] {
	case tableData:
		return l.countData(content)
	case tableChanges:
		_, user, ok := parseIndexKey(l.key)
		if !ok || !l.st.owns(user) {
			return errChecksum
		}
		_, err := decodeChange(content)
		return err
	case tableExpiry:
		l.expiring[1]++
		_, user, ok := parseIndexKey(l.key)
		if !ok || !l.st.owns(user) || len(content) > 0 {
			return errChecksum
		}
		return nil
	case tableByIssued:
		at, ok := atOfIssued(l.key[headerBytes:])
		if !ok {
			return errChecksum
		}
		if at.fingerprint() != 0 {
			l.byID[0]++
		}
		h := &l.st.homes[0]
		h.count++
		h.lastMs = max(h.lastMs, at.issuedMs())
		return nil
	case tableRequests:
		l.byID[1]++
		if at, ok := atOfRequest(l.key[headerBytes:]); !ok || at.fingerprint() == 0 || len(content) > 0 {
			return errChecksum
		}
		return nil
	default:
		return errChecksum
	}
}

func (l *loader) countData(content []byte) error {
	user, _, ok := parseDataKey(l.user[:0], l.key)
	if !ok || !l.st.owns(user) {
		return errChecksum
	}
	l.user = user
	rec, err := decodeRecord(content)
	if err != nil {
		return err
	}
	newest := l.lastUser == nil || !bytes.Equal(l.lastUser, user)
	l.lastUser = append(l.lastUser[:0], user...)
	if rec.tombstone {
		return nil
	}
	l.counted.bytes += int64(len(user) + len(rec.value))
	if newest {
		l.counted.keys++
		if rec.expiresMs != 0 {
			l.expiring[0]++
		}
	}
	return nil
}
