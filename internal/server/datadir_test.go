package server

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A node that lost its data directory's name would come back as another node, and
// a cluster that lost power before anybody's was durable would never come back.
func TestDataDirSurvivesACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	const dir = "/var/lib/quorate"
	if err := makeDataDir(fs, dir); err != nil {
		t.Fatal(err)
	}
	before, err := openIdentity(fs, dir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := openIdentity(fs.CrashClone(vfs.CrashCloneCfg{}), dir)
	if err != nil {
		t.Fatal(err)
	}
	if before.Node() != after.Node() {
		t.Fatalf("node %s is node %s after a crash", before.Node(), after.Node())
	}
}

// TestDataDirIsPrivate: also where somebody else made it, as an image's volume is.
func TestDataDirIsPrivate(t *testing.T) {
	for mode, want := range map[fs.FileMode]fs.FileMode{0o755: 0o700, 0o700: 0o700, 0o750: 0o700, 0o777 | fs.ModeSticky: 0o777} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		keepPrivate(dir, slog.New(slog.DiscardHandler))
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode %o became %v, %v", mode, info.Mode(), err)
		}
	}
}
