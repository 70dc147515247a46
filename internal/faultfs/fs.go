package faultfs

import (
	"errors"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrDrop, given by an injector, makes the operation report success without
// being done, as a disk that lies does. Operations that give something back
// (a file, bytes, a listing) fail with it instead.
var ErrDrop = errors.New("faultfs: operation dropped")

// Injector decides about operations. Before is called by the goroutine that
// performs the operation and may block it. The operation is performed if it
// returns nil; otherwise that error is the operation's (see ErrDrop).
type Injector interface {
	Before(op Op) error
}

// Finisher is an Injector that wants to know when an operation is over. After is
// called once for every Before that returned nil.
type Finisher interface {
	Injector
	After(op Op)
}

// finish tells an injector that an operation is over.
func finish(injector Injector, op Op) {
	if f, ok := injector.(Finisher); ok {
		f.After(op)
	}
}

// InjectorFunc is a function as an Injector.
type InjectorFunc func(op Op) error

// Before calls the function.
func (f InjectorFunc) Before(op Op) error { return f(op) }

// Wrap gives a file system like fs whose operations ask an injector first.
func Wrap(fs vfs.FS, injector Injector) vfs.FS { return &faultFS{inner: fs, injector: injector} }

type faultFS struct {
	inner    vfs.FS
	injector Injector
}

// do asks the injector and performs an operation that gives nothing back.
func (f *faultFS) do(op Op, perform func() error) error {
	switch err := f.injector.Before(op); {
	case errors.Is(err, ErrDrop):
		return nil
	case err != nil:
		return err
	default:
		defer finish(f.injector, op)
		return perform()
	}
}

func (f *faultFS) open(op Op, perform func() (vfs.File, error)) (vfs.File, error) {
	if err := f.injector.Before(op); err != nil {
		return nil, err
	}
	defer finish(f.injector, op)
	inner, err := perform()
	if err != nil {
		return nil, err
	}
	path := op.Path
	if op.To != "" {
		path = op.To
	}
	return &faultFile{inner: inner, path: path, fs: f}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(Op{Kind: OpCreate, Path: name}, func() (vfs.File, error) { return f.inner.Create(name, c) })
}

func (f *faultFS) Link(oldname, newname string) error {
	return f.do(Op{Kind: OpLink, Path: oldname, To: newname}, func() error { return f.inner.Link(oldname, newname) })
}

func (f *faultFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.open(Op{Kind: OpOpen, Path: name}, func() (vfs.File, error) { return f.inner.Open(name) })
	if err != nil {
		return nil, err
	}
	for _, opt := range opts {
		opt.Apply(file)
	}
	return file, nil
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	op := Op{Kind: OpOpenReadWrite, Path: name}
	file, err := f.open(op, func() (vfs.File, error) { return f.inner.OpenReadWrite(name, c) })
	if err != nil {
		return nil, err
	}
	for _, opt := range opts {
		opt.Apply(file)
	}
	return file, nil
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	return f.open(Op{Kind: OpOpenDir, Path: name}, func() (vfs.File, error) { return f.inner.OpenDir(name) })
}

func (f *faultFS) Remove(name string) error {
	return f.do(Op{Kind: OpRemove, Path: name}, func() error { return f.inner.Remove(name) })
}

func (f *faultFS) RemoveAll(name string) error {
	return f.do(Op{Kind: OpRemoveAll, Path: name}, func() error { return f.inner.RemoveAll(name) })
}

func (f *faultFS) Rename(oldname, newname string) error {
	return f.do(Op{Kind: OpRename, Path: oldname, To: newname}, func() error { return f.inner.Rename(oldname, newname) })
}

func (f *faultFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(Op{Kind: OpReuseForWrite, Path: oldname, To: newname}, func() (vfs.File, error) {
		return f.inner.ReuseForWrite(oldname, newname, c)
	})
}

func (f *faultFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.do(Op{Kind: OpMkdirAll, Path: dir}, func() error { return f.inner.MkdirAll(dir, perm) })
}

func (f *faultFS) Lock(name string) (io.Closer, error) {
	if err := f.injector.Before(Op{Kind: OpLock, Path: name}); err != nil {
		return nil, err
	}
	defer finish(f.injector, Op{Kind: OpLock, Path: name})
	return f.inner.Lock(name)
}

func (f *faultFS) List(dir string) ([]string, error) {
	if err := f.injector.Before(Op{Kind: OpList, Path: dir}); err != nil {
		return nil, err
	}
	defer finish(f.injector, Op{Kind: OpList, Path: dir})
	return f.inner.List(dir)
}

func (f *faultFS) Stat(name string) (vfs.FileInfo, error) {
	if err := f.injector.Before(Op{Kind: OpStat, Path: name}); err != nil {
		return nil, err
	}
	defer finish(f.injector, Op{Kind: OpStat, Path: name})
	return f.inner.Stat(name)
}

func (f *faultFS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	if err := f.injector.Before(Op{Kind: OpDiskUsage, Path: path}); err != nil {
		return vfs.DiskUsage{}, err
	}
	defer finish(f.injector, Op{Kind: OpDiskUsage, Path: path})
	return f.inner.GetDiskUsage(path)
}

func (f *faultFS) PathBase(path string) string        { return f.inner.PathBase(path) }
func (f *faultFS) PathJoin(elements ...string) string { return f.inner.PathJoin(elements...) }
func (f *faultFS) PathDir(path string) string         { return f.inner.PathDir(path) }

// Unwrap gives the file system below.
func (f *faultFS) Unwrap() vfs.FS { return f.inner }
