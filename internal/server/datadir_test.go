package server

import (
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
