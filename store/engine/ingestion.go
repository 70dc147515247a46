package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// tableBytes is where an ingestion starts a new table.
const tableBytes = 32 << 20

// ingestion implements Ingestion by tables in the staging directory, which Pebble
// links into its own.
type ingestion struct {
	e       *pebbleEngine
	w       *sstable.Writer // nil between tables
	size    int             // bytes added to w
	paths   []string
	last    []byte // the newest key, for the order check
	done    bool
	failure error
}

func (e *pebbleEngine) NewIngestion() (Ingestion, error) { return &ingestion{e: e}, nil }

func (in *ingestion) Add(key, value []byte) error {
	if in.failure != nil {
		return in.failure
	}
	if in.last != nil && bytes.Compare(key, in.last) <= 0 {
		return in.fail(errors.New("engine: ingestion: keys out of order"))
	}
	if in.w == nil {
		if err := in.startTable(); err != nil {
			return in.fail(err)
		}
	}
	if err := in.w.Set(key, value); err != nil {
		return in.fail(err)
	}
	in.last = append(in.last[:0], key...)
	in.size += len(key) + len(value)
	if in.size >= tableBytes {
		return in.fail(in.finishTable())
	}
	return nil
}

func (in *ingestion) fail(err error) error {
	if err != nil && in.failure == nil {
		in.failure = err
	}
	return err
}

func (in *ingestion) startTable() error {
	fs := in.e.opts.FS
	path := fs.PathJoin(in.e.stagingDir, fmt.Sprintf("%08d.sst", in.e.nextTable.Add(1)))
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("engine: ingestion: %w", err)
	}
	in.paths = append(in.paths, path)
	in.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), in.e.opts.MakeWriterOptions(0, in.e.db.TableFormat()))
	in.size = 0
	return nil
}

// finishTable closes the table, which also syncs its file.
func (in *ingestion) finishTable() error {
	w := in.w
	in.w = nil
	if err := w.Close(); err != nil {
		return fmt.Errorf("engine: ingestion: %w", err)
	}
	return nil
}

func (in *ingestion) Commit() error {
	if in.failure != nil {
		return in.failure
	}
	if in.w != nil {
		if err := in.finishTable(); err != nil {
			return in.fail(err)
		}
	}
	if len(in.paths) > 0 {
		if err := in.e.db.Ingest(context.Background(), in.paths); err != nil {
			return in.fail(mark(err))
		}
	}
	in.done = true
	return nil
}

func (in *ingestion) Close() error {
	if in.done {
		return nil
	}
	in.done = true
	in.fail(errors.New("engine: ingestion is closed"))
	var errs []error
	if in.w != nil {
		errs = append(errs, in.finishTable())
	}
	fs := in.e.opts.FS
	for _, path := range in.paths {
		errs = append(errs, fs.Remove(path))
	}
	return errors.Join(errs...)
}
