package store

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/planted"
	"github.com/quorate-db/quorate/store/engine"
)

// Image is a replica's state at one applied index. It has the methods of
// raftnode.Image.
type Image interface {
	// Applied tells where in the log the image stands.
	Applied() kv.Applied
	// WriteTo writes what Replica.Stage reads. It may be called once.
	WriteTo(w io.Writer) (int64, error)
	// Close releases the image. Closing again is no error.
	Close() error
}

// image implements Image by a snapshot of the engine.
type image struct {
	db *DB
	st *state

	mu   sync.Mutex
	snap engine.Snapshot // guarded by mu; nil once closed
	used bool            // guarded by mu
}

// Image gives a view of the whole state for a snapshot, without a copy. It holds
// on to what it shows until it is closed; closing the DB closes it too.
func (r *Replica) Image() (Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return nil, asError(kv.OutcomeNone, "image", r.failed)
	}
	if err := r.db.enter(); err != nil {
		return nil, asError(kv.OutcomeNone, "image", err)
	}
	defer r.db.leave()
	im := &image{db: r.db, st: r.current.Load(), snap: r.db.eng.NewSnapshot()}
	r.db.images.add(im)
	return im, nil
}

func (im *image) Applied() kv.Applied { return im.st.applied }

func (im *image) WriteTo(w io.Writer) (int64, error) {
	if err := im.db.enter(); err != nil {
		return 0, err
	}
	defer im.db.leave()
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.snap == nil || im.used {
		return 0, errors.New("store: the image is closed or was written already")
	}
	im.used = true
	f := newFrameWriter(w)
	err := writeImage(f, im.snap, im.st)
	return f.written, err
}

// writeImage writes a replica as if it had one space and one home.
func writeImage(f *frameWriter, src iterSource, st *state) error {
	if err := f.write([]byte(imageMagic)); err != nil {
		return err
	}
	if err := f.frame(frameHeader, appendState(nil, st, false)); err != nil {
		return err
	}
	var block []byte
	records := uint64(0)
	flush := func() error {
		if len(block) == 0 {
			return nil
		}
		err := f.frame(frameBlock, block)
		block = block[:0]
		return err
	}
	err := walk(src, &st.placement, func(local, value []byte) error {
		if plantedOmission(local, value) {
			return nil
		}
		records++
		block = binary.AppendUvarint(block, uint64(len(local)))
		block = append(block, local...)
		block = binary.AppendUvarint(block, uint64(len(value)))
		block = append(block, value...)
		if len(block) < blockBytes {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	end := binary.BigEndian.AppendUint64(nil, records)
	if err := f.frame(frameEnd, f.sum.Sum(end)); err != nil {
		return err
	}
	return f.w.Flush()
}

// plantedOmission chooses what a planted fault leaves out of images.
func plantedOmission(local, value []byte) bool {
	switch {
	case planted.On(planted.ImageWithoutRequests):
		return local[0] == tableByIssued || local[0] == tableRequests
	case planted.On(planted.ImageWithoutTombstones) && local[0] == tableData:
		rec, err := decodeRecord(value[checksumBytes:])
		return err == nil && rec.tombstone
	default:
		return false
	}
}

func (im *image) Close() error {
	if im.db.enter() != nil {
		return nil // the DB has closed it
	}
	defer im.db.leave()
	im.db.images.remove(im)
	return im.release()
}

func (im *image) release() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.snap == nil {
		return nil
	}
	snap := im.snap
	im.snap = nil
	return snap.Close()
}

// openImages are the images of a DB that have not been closed.
type openImages struct {
	mu  sync.Mutex
	all map[*image]struct{} // guarded by mu
}

func (o *openImages) add(im *image) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[*image]struct{}{}
	}
	o.all[im] = struct{}{}
}

func (o *openImages) remove(im *image) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, im)
}

// closeAll closes what is left.
func (o *openImages) closeAll() error {
	o.mu.Lock()
	all := o.all
	o.all = nil
	o.mu.Unlock()
	var errs []error
	for im := range all {
		errs = append(errs, im.release())
	}
	return errors.Join(errs...)
}
