package raftnode

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A snapshot by which the log was cut must survive a crash, its directory and those
// above it too.
func TestSnapshotFileSurvivesACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	if err := errors.Join(fs.MkdirAll("data", 0o755), (&snapshotFiles{fs: fs}).syncDir("")); err != nil {
		t.Fatal(err) // the data directory is the caller's
	}
	const dir = "data/raft/snapshots/1-1"
	files := &snapshotFiles{fs: fs, dir: dir}
	if err := files.open(); err != nil {
		t.Fatal(err)
	}
	m := newTestMachine(nil)
	m.state.Applied.Index, m.state.Applied.Term = 7, 1
	image, err := m.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := files.write(image); err != nil {
		t.Fatal(err)
	}
	after := &snapshotFiles{fs: fs.CrashClone(vfs.CrashCloneCfg{}), dir: dir}
	if got, err := after.indexes(); err != nil || len(got) != 1 || got[0] != 7 {
		t.Fatalf("snapshots after the crash: %v, %v", got, err)
	}
}
