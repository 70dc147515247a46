package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate-db/quorate/kv"
)

// snapshotFiles keeps the snapshots of a machine that lives in memory: files named
// by their applied index, the newest two of them. A file is
//
//	magic(8) content … length of content(8) crc32c of all before(4)
//
// with little-endian integers. It gets its name when it is complete and synced.
type snapshotFiles struct {
	fs  vfs.FS
	dir string
}

const (
	snapshotMagic   = "QUORSNP1"
	snapshotSuffix  = ".snapshot"
	temporarySuffix = ".tmp"
	snapshotsKept   = 2
	snapshotTrailer = 12
)

// WriteCategory names this package's files in the statistics of a file system.
const WriteCategory vfs.DiskWriteCategory = "raft-snapshot"

func castagnoli() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

func (f *snapshotFiles) path(name string) string { return f.fs.PathJoin(f.dir, name) }

// open makes the directory and removes what was not finished. The directory's own
// entry, and those of the two above it, which are the host's, are made durable: the
// log is cut by what is in here.
func (f *snapshotFiles) open() error {
	if err := f.fs.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	above := f.dir
	for range 3 {
		above = f.fs.PathDir(above)
		if err := f.syncDir(above); err != nil {
			return err
		}
	}
	names, err := f.fs.List(f.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, temporarySuffix) {
			err = errors.Join(err, f.fs.Remove(f.path(name)))
		}
	}
	return err
}

// indexes gives the snapshots that there are, the newest first.
func (f *snapshotFiles) indexes() ([]uint64, error) {
	names, err := f.fs.List(f.dir)
	if err != nil {
		return nil, err
	}
	var found []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, snapshotSuffix)
		if !ok {
			continue
		}
		if index, err := strconv.ParseUint(digits, 10, 64); err == nil {
			found = append(found, index)
		}
	}
	slices.Sort(found)
	slices.Reverse(found)
	return found, nil
}

func (f *snapshotFiles) name(index uint64) string {
	return fmt.Sprintf("%020d%s", index, snapshotSuffix)
}

// write stores an image and returns when it is on disk under its name.
func (f *snapshotFiles) write(image Image) error {
	name := f.name(image.Applied().Index)
	temporary := f.path(name + temporarySuffix)
	if err := f.writeFile(temporary, image); err != nil {
		return errors.Join(err, f.fs.Remove(temporary))
	}
	if err := f.fs.Rename(temporary, f.path(name)); err != nil {
		return err
	}
	if err := f.syncDir(f.dir); err != nil {
		return err
	}
	return f.prune()
}

func (f *snapshotFiles) writeFile(path string, image Image) (err error) {
	file, err := f.fs.Create(path, WriteCategory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := castagnoli()
	out := io.MultiWriter(sum, &fileWriter{file: file})
	if _, err := io.WriteString(out, snapshotMagic); err != nil {
		return err
	}
	content, err := image.WriteTo(out)
	if err != nil {
		return err
	}
	if _, err := out.Write(binary.LittleEndian.AppendUint64(nil, uint64(content))); err != nil {
		return err
	}
	if _, err := file.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32())); err != nil {
		return err
	}
	return file.Sync()
}

// fileWriter makes an io.Writer of a vfs.File, whose Write may change the bytes it
// is given.
type fileWriter struct {
	file vfs.File
	buf  []byte
}

func (w *fileWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf[:0], p...)
	return w.file.Write(w.buf)
}

func (f *snapshotFiles) syncDir(name string) error {
	dir, err := f.fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prune removes all but the newest snapshots.
func (f *snapshotFiles) prune() error {
	found, err := f.indexes()
	if err != nil || len(found) <= snapshotsKept {
		return err
	}
	for _, index := range found[snapshotsKept:] {
		err = errors.Join(err, f.fs.Remove(f.path(f.name(index))))
	}
	return err
}

// restore brings a machine to the newest snapshot that is whole. Without any it
// leaves the machine alone. A damaged one is skipped: the log may still reach back
// to the one before, and if it does not, reconcile finds out.
func (f *snapshotFiles) restore(m StateMachine, damaged func(index uint64, err error)) error {
	found, err := f.indexes()
	if err != nil {
		return err
	}
	for _, index := range found {
		err := f.restoreOne(m, index)
		if err == nil {
			return nil
		}
		damaged(index, err)
	}
	return nil
}

func (f *snapshotFiles) restoreOne(m StateMachine, index uint64) error {
	file, err := f.fs.Open(f.path(f.name(index)))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // read only
	info, err := file.Stat()
	if err != nil {
		return err
	}
	content, err := checkSnapshot(file, info.Size())
	if err != nil {
		return err
	}
	staged, err := m.Stage(content)
	if err != nil {
		return err
	}
	defer func() { _ = staged.Close() }() // what was not installed is in memory only
	if got := staged.Applied().Index; got != index {
		return kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown, "the snapshot named %d is of %d", index, got)
	}
	return staged.Install()
}

// checkSnapshot reads a whole file and gives its content only if it is whole.
func checkSnapshot(file io.ReaderAt, size int64) (*io.SectionReader, error) {
	content := size - int64(len(snapshotMagic)) - snapshotTrailer
	if content < 0 {
		return nil, kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown, "a snapshot of %d bytes", size)
	}
	sum := castagnoli()
	body := io.NewSectionReader(file, 0, size-4)
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(body, magic); err != nil {
		return nil, err
	}
	if _, err := io.Copy(sum, io.NewSectionReader(file, 0, size-4)); err != nil {
		return nil, err
	}
	trailer := make([]byte, snapshotTrailer)
	if _, err := file.ReadAt(trailer, size-snapshotTrailer); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(trailer)
	if string(magic) != snapshotMagic || length != uint64(content) || binary.LittleEndian.Uint32(trailer[8:]) != sum.Sum32() {
		return nil, kv.Errorf(kv.CodeCorrupt, kv.OutcomeUnknown, "a snapshot whose checksum does not match")
	}
	return io.NewSectionReader(file, int64(len(snapshotMagic)), content), nil
}
