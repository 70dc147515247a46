package faultfs

import (
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, fs vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	return f
}

func content(t *testing.T, fs vfs.FS, name string) string {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	data, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	return string(data)
}

// TestEveryOperationIsSeenAndDone calls every method once.
func TestEveryOperationIsSeenAndDone(t *testing.T) {
	var seen []Kind
	counter := NewCounter()
	mem := vfs.NewMem()
	fs := Wrap(mem, Chain(counter, InjectorFunc(func(op Op) error {
		seen = append(seen, op.Kind)
		if op.Path == "" {
			t.Errorf("%s without a path", op.Kind)
		}
		return nil
	})))
	must(t, fs.MkdirAll("d", 0o755))
	f := create(t, fs, "d/a")
	_, err := f.Write([]byte("hello"))
	must(t, err)
	must(t, f.Preallocate(0, 10))
	must(t, f.Sync())
	must(t, f.SyncData())
	_, err = f.SyncTo(3)
	must(t, err)
	_, err = f.Stat()
	must(t, err)
	must(t, f.Close())
	if got := content(t, fs, "d/a"); got != "hello" {
		t.Fatalf("read %q", got)
	}
	useNames(t, fs)
	for k := range kindCount {
		if !slices.Contains(seen, k) || counter.Count(k) == 0 {
			t.Errorf("%s was not seen", k)
		}
	}
	if fs.Unwrap() != vfs.FS(mem) || fs.PathBase("d/a") != "a" || fs.PathDir("d/a") != "d" || fs.PathJoin("d", "a") != "d/a" {
		t.Error("paths or Unwrap are not passed on")
	}
}

// useNames goes on with what has to do with names.
func useNames(t *testing.T, fs vfs.FS) {
	f, err := fs.OpenReadWrite("d/a", vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.WriteAt([]byte("J"), 0)
	must(t, err)
	p := make([]byte, 2)
	_, err = f.ReadAt(p, 3)
	must(t, err)
	if string(p) != "lo" {
		t.Fatalf("read %q", p)
	}
	must(t, f.Close())
	must(t, fs.Link("d/a", "d/b"))
	must(t, fs.Rename("d/b", "d/c"))
	f, err = fs.ReuseForWrite("d/c", "d/e", vfs.WriteCategoryUnspecified)
	must(t, err)
	must(t, f.Close())
	dir, err := fs.OpenDir("d")
	must(t, err)
	must(t, dir.Sync())
	must(t, dir.Close())
	names, err := fs.List("d")
	must(t, err)
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "e"}) || content(t, fs, "d/e") != "Jello" {
		t.Fatalf("files %v", names)
	}
	_, err = fs.Stat("d/a")
	must(t, err)
	if _, err := fs.GetDiskUsage("d"); err != nil && !errors.Is(err, vfs.ErrUnsupported) {
		t.Fatal(err)
	}
	lock, err := fs.Lock("d/LOCK")
	must(t, err)
	must(t, lock.Close())
	must(t, fs.Remove("d/a"))
	must(t, fs.RemoveAll("d"))
}

func TestSwitchFailsWhatItIsTold(t *testing.T) {
	fail := NewSwitch(Kinds(OpWrite).And(PathSuffix(".log")))
	fs := Wrap(vfs.NewMem(), fail)
	log, other := create(t, fs, "a.log"), create(t, fs, "a.txt")
	fail.Fail(syscall.ENOSPC, 1, 2)
	var errs []error
	for range 5 {
		_, err := log.Write([]byte("x"))
		errs = append(errs, err)
		_, err = other.Write([]byte("x"))
		must(t, err)
	}
	no := error(syscall.ENOSPC)
	if !slices.Equal(errs, []error{nil, no, no, nil, nil}) || fail.Fired() != 2 {
		t.Fatalf("errors %v", errs)
	}
	fail.Fail(syscall.EIO, 0, -1)
	for range 3 {
		if _, err := log.Write(nil); err != syscall.EIO {
			t.Fatal(err)
		}
	}
	fail.Heal()
	_, err := log.Write([]byte("y"))
	must(t, errors.Join(err, log.Close(), other.Close()))
	if got := content(t, fs, "a.log"); got != "xxxy" {
		t.Fatalf("wrote %q", got)
	}
}

func TestDropReportsSuccess(t *testing.T) {
	mem := vfs.NewCrashableMem()
	drop := NewSwitch(Mutations())
	fs := Wrap(mem, drop)
	f := create(t, fs, "a")
	dir, err := fs.OpenDir("")
	must(t, err)
	must(t, dir.Sync())
	_, err = f.Write([]byte("kept "))
	must(t, errors.Join(err, f.Sync()))
	drop.Fail(ErrDrop, 0, -1)
	n, err := f.Write([]byte("dropped"))
	if n != 7 || err != nil {
		t.Fatalf("a dropped write says %d, %v", n, err)
	}
	must(t, f.Sync())
	must(t, fs.Remove("a"))
	if _, err := fs.Create("b", vfs.WriteCategoryUnspecified); !errors.Is(err, ErrDrop) {
		t.Fatalf("a file that was not made: %v", err)
	}
	drop.Heal()
	_, err = f.Write([]byte("unsynced"))
	must(t, err)
	drop.Fail(ErrDrop, 0, -1)
	must(t, f.SyncData()) // a lie
	must(t, errors.Join(f.Close(), dir.Close()))
	if got := content(t, fs, "a"); got != "kept unsynced" {
		t.Fatalf("file holds %q", got)
	}
	if got := content(t, mem.CrashClone(vfs.CrashCloneCfg{}), "a"); got != "kept " {
		t.Fatalf("after a crash the file holds %q", got)
	}
}

func TestGateHoldsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := NewGate(Syncs())
		fs := Wrap(vfs.NewMem(), gate)
		f := create(t, fs, "a")
		must(t, f.Sync())
		gate.Close()
		gate.Close()
		done := make(chan error, 2)
		for range 2 {
			go func() { done <- f.SyncData() }()
		}
		gate.Await(2)
		synctest.Wait()
		if gate.Held() != 2 || len(done) != 0 {
			t.Fatalf("%d held up, %d done", gate.Held(), len(done))
		}
		_, err := f.Write([]byte("passes"))
		must(t, err)
		gate.Open()
		gate.Open()
		must(t, errors.Join(<-done, <-done))
		if gate.Held() != 0 {
			t.Fatalf("%d held up after it was opened", gate.Held())
		}
		must(t, errors.Join(f.Sync(), f.Close()))
	})
}

// TestCrashImages numbers operations and shows the disk before each.
func TestCrashImages(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var images []*vfs.MemFS
	var kinds []Kind
	crash := NewCrash(mem, func(n int, op Op) bool { return n > 0 }, func(n int, op Op, image Image) {
		if n != len(images)+1 {
			t.Errorf("operation %d after %d", n, len(images))
		}
		images, kinds = append(images, image(0, nil)), append(kinds, op.Kind)
	})
	fs := Wrap(mem, When(PathGlob("*"), Chain(NewCounter(), crash)))
	f := create(t, fs, "a") // operation 0
	dir, err := fs.OpenDir("")
	must(t, err)
	must(t, dir.Sync())
	_, err = f.Write([]byte("one"))
	must(t, err)
	must(t, f.Sync())
	must(t, fs.Remove("a"))
	must(t, dir.Sync())
	must(t, errors.Join(f.Close(), dir.Close()))
	if want := []Kind{OpSync, OpWrite, OpSync, OpRemove, OpSync}; !slices.Equal(kinds, want) || crash.Operations() != 6 {
		t.Fatalf("operations %v, %d", kinds, crash.Operations())
	}
	if _, err := images[0].Stat("a"); err == nil {
		t.Error("the name is there before its directory was synced")
	}
	if content(t, images[2], "a") != "" || content(t, images[3], "a") != "one" || content(t, images[4], "a") != "one" {
		t.Error("content is not what was synced at the time")
	}
}

func TestChainUndoesWhatItBegan(t *testing.T) {
	var balance int
	count := &both{func() { balance++ }, func() { balance-- }}
	fail := NewSwitch(Kinds(OpMkdirAll))
	fs := Wrap(vfs.NewMem(), Chain(count, fail, count))
	must(t, fs.MkdirAll("a", 0o755))
	fail.Fail(syscall.EIO, 0, 1)
	if err := fs.MkdirAll("b", 0o755); err != syscall.EIO || balance != 0 {
		t.Fatalf("%v, %d operations are still under way", err, balance)
	}
}

type both struct{ before, after func() }

func (b *both) Before(Op) error { b.before(); return nil }
func (b *both) After(Op)        { b.after() }
