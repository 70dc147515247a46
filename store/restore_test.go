package store

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/quorate-db/quorate/store/engine"
)

// restore replaces the state by an image, as raftnode does when it has arrived.
func restore(r *Replica, src io.Reader) error {
	staged, err := r.Stage(src)
	if err != nil {
		return err
	}
	return closeWith(staged, staged.Install())
}

// TestStageBesideApply: while an image arrives, entries are applied. What they did is
// replaced if the image is newer, and kept if it is not.
func TestStageBesideApply(t *testing.T) {
	const at = 60
	for name, applied := range map[string]int{"older": at - 10, "at it": at, "beyond it": at + 10} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, 100, at)
			image := s.images[at]
			fs := engine.NewMemFS()
			db := mustOpen(t, fs)
			r := mustReplica(t, db)
			mustApply(t, r, s.entries[:20]...)
			src, arrives := io.Pipe()
			fed := make(chan struct{})
			go func() {
				defer close(fed)
				half := len(image) / 2
				_, _ = arrives.Write(image[:half]) // fails if Stage does, which is seen below
				// More is read when the header has been: then the image was found to be newer.
				_, _ = arrives.Write(image[half : half+1])
				mustApply(t, r, s.entries[20:applied]...)
				_, _ = arrives.Write(image[half+1:])
				_ = arrives.Close()
			}()
			staged, err := r.Stage(src)
			_ = src.Close()
			<-fed
			if err != nil || staged.Applied().Index != s.entries[at-1].Index {
				t.Fatalf("%+v, %v", staged, err)
			}
			if got := r.Applied().Index; got != s.entries[applied-1].Index {
				t.Fatalf("staging moved the replica to %d", got)
			}
			before := mustDigest(t, r)
			err = staged.Install()
			mustClose(t, staged)
			switch {
			case applied < at && (err != nil || mustDigest(t, r) != s.digests[at]):
				t.Fatalf("not installed: %v", err)
			case applied >= at && (!errors.Is(err, ErrImageOld) || mustDigest(t, r) != before):
				t.Fatalf("an image at %d was taken over %d: %v", at, applied, err)
			}
			mustApply(t, r, s.rest(uint64(max(at, applied)))...)
			mustBeEmpty(t, fs, "store/staging")
			mustClose(t, db)
		})
	}
}

// TestStagedAndForgotten: nothing is left of an image that is not installed, nor of one
// that breaks off.
func TestStagedAndForgotten(t *testing.T) {
	s := newScript(t, 100, 60)
	fs := engine.NewMemFS()
	db := mustOpen(t, fs)
	r := mustReplica(t, db)
	mustApply(t, r, s.entries[:20]...)
	staged, err := r.Stage(bytes.NewReader(s.images[60]))
	if err != nil {
		t.Fatal(err)
	}
	if names, err := fs.List("store/staging"); err != nil || len(names) == 0 {
		t.Fatalf("nothing is staged: %v, %v", names, err)
	}
	mustClose(t, staged)
	mustClose(t, staged)
	if err := staged.Install(); err == nil {
		t.Fatal("installed after it was closed")
	}
	broken := errors.New("the line is dead")
	if _, err := r.Stage(io.MultiReader(bytes.NewReader(s.images[60][:1000]), failing{broken})); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	mustBeEmpty(t, fs, "store/staging")
	mustApply(t, r, s.rest(20)...)
	mustClose(t, db)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func mustBeEmpty(t *testing.T, fs engine.FS, dir string) {
	t.Helper()
	if names, err := fs.List(dir); err != nil || len(names) > 0 {
		t.Errorf("left in %s: %v, %v", dir, names, err)
	}
}
