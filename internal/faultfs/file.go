package faultfs

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFile is a file or directory that was opened through a faultFS.
type faultFile struct {
	inner vfs.File
	path  string
	fs    *faultFS
}

func (f *faultFile) op(kind Kind) Op { return Op{Kind: kind, Path: f.path} }

// buffer is do for operations that answer with a count of bytes.
func (f *faultFile) buffer(op Op, p []byte, write bool, perform func([]byte) (int, error)) (int, error) {
	op.Bytes = int64(len(p))
	switch err := f.fs.injector.Before(op); {
	case write && errors.Is(err, ErrDrop):
		return len(p), nil
	case err != nil:
		return 0, err
	default:
		defer finish(f.fs.injector, op)
		return perform(p)
	}
}

func (f *faultFile) Close() error { return f.fs.do(f.op(OpClose), f.inner.Close) }

func (f *faultFile) Read(p []byte) (int, error) {
	return f.buffer(f.op(OpRead), p, false, f.inner.Read)
}

func (f *faultFile) ReadAt(p []byte, offset int64) (int, error) {
	op := f.op(OpReadAt)
	op.Offset = offset
	return f.buffer(op, p, false, func(p []byte) (int, error) { return f.inner.ReadAt(p, offset) })
}

func (f *faultFile) Write(p []byte) (int, error) {
	return f.buffer(f.op(OpWrite), p, true, f.inner.Write)
}

func (f *faultFile) WriteAt(p []byte, offset int64) (int, error) {
	op := f.op(OpWriteAt)
	op.Offset = offset
	return f.buffer(op, p, true, func(p []byte) (int, error) { return f.inner.WriteAt(p, offset) })
}

func (f *faultFile) Preallocate(offset, length int64) error {
	op := Op{Kind: OpPreallocate, Path: f.path, Offset: offset, Bytes: length}
	return f.fs.do(op, func() error { return f.inner.Preallocate(offset, length) })
}

func (f *faultFile) Stat() (vfs.FileInfo, error) {
	if err := f.fs.injector.Before(f.op(OpFileStat)); err != nil {
		return nil, err
	}
	defer finish(f.fs.injector, f.op(OpFileStat))
	return f.inner.Stat()
}

func (f *faultFile) Sync() error     { return f.fs.do(f.op(OpSync), f.inner.Sync) }
func (f *faultFile) SyncData() error { return f.fs.do(f.op(OpSyncData), f.inner.SyncData) }

func (f *faultFile) SyncTo(length int64) (full bool, err error) {
	op := Op{Kind: OpSyncTo, Path: f.path, Bytes: length}
	err = f.fs.do(op, func() error {
		full, err = f.inner.SyncTo(length)
		return err
	})
	return full, err
}

func (f *faultFile) Prefetch(offset, length int64) error { return f.inner.Prefetch(offset, length) }
func (f *faultFile) Fd() uintptr                         { return f.inner.Fd() }
