// Package arch holds the repository to docs/ARCHITECTURE.md: who may import
// whom, which library is confined to which room, and how large files, functions
// and structs may grow.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/quorate-db/quorate"

// arrows lists, for each room, the rooms of ours that its non-test code may
// import. A room covers its subpackages unless they are listed themselves.
// Everything may import kv.
var arrows = map[string][]string{
	"kv":                    {"kv"},
	"store":                 {"kv", "store"},
	"raftnode":              {"kv", "raftnode"},
	"raftnode/peer":         {"kv"},
	"raftnode/raftlog":      {"kv"},
	"router":                {"kv", "router"},
	"placement":             {"kv", "placement", "internal/access"},
	"httpd":                 {"kv", "internal/access"},
	"client":                {"kv"},
	"metrics":               {"kv"},
	"internal/access":       {"kv"},
	"internal/arch":         {},
	"internal/pki":          {"kv"},
	"internal/audit":        {},
	"internal/faultfs":      {},
	"internal/simnet":       {"kv", "raftnode/peer"},
	"internal/bench":        {"kv", "client", "internal/access", "internal/bench"},
	"internal/localcluster": {},
	"internal/server":       {"kv", "store", "raftnode", "router", "placement", "httpd", "metrics", "internal"},
	"internal/sim":          {"kv", "store", "raftnode", "router", "placement", "internal"},
	"cmd":                   {"kv", "store", "raftnode", "router", "placement", "httpd", "client", "metrics", "internal", "cmd"},
	"test":                  {"kv", "client", "internal", "test"},
}

// confined lists libraries that only the named rooms may import.
var confined = map[string][]string{
	"github.com/hashicorp/raft":               {"raftnode", "raftnode/raftlog"},
	"github.com/hashicorp/raft-boltdb":        {"raftnode/raftlog"},
	"go.etcd.io/bbolt":                        {"raftnode/raftlog"},
	"github.com/gorilla/mux":                  {"httpd"},
	"github.com/prometheus/client_golang":     {"metrics"},
	"github.com/spf13/cobra":                  {"cmd"},
	"github.com/cockroachdb/pebble":           {"store/engine", "raftnode/raftlog"},
	"github.com/HdrHistogram/hdrhistogram-go": {"internal/bench"},
}

// fileSystemSeam is the one part of Pebble that is a seam, not a database, and
// may be named by whoever is handed a file system.
const fileSystemSeam = "github.com/cockroachdb/pebble/v2/vfs"

type goPackage struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,GoFiles", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return pkgs
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// roomOf gives the most specific room of table that holds the package, "" if none.
func roomOf[V any](rel string, table map[string]V) string {
	best := ""
	for room := range table {
		if within(rel, room) && len(room) > len(best) {
			best = room
		}
	}
	return best
}

func within(rel, room string) bool { return rel == room || strings.HasPrefix(rel, room+"/") }

func TestArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		room := roomOf(rel, arrows)
		if room == "" {
			t.Errorf("%s is in no room of docs/ARCHITECTURE.md; add it there and to arrows", rel)
			continue
		}
		for _, v := range forbidden(rel, p.Imports, arrows[room]) {
			t.Errorf("%s imports %s; %s may import only %v", rel, v, room, arrows[room])
		}
	}
}

// forbidden gives the imports of ours that are neither kv nor within allowed.
func forbidden(rel string, imports, allowed []string) []string {
	var bad []string
	for _, imp := range imports {
		target, ours := strings.CutPrefix(imp, module+"/")
		if !ours || within(target, "kv") || within(target, rel) {
			continue
		}
		if !slices.ContainsFunc(allowed, func(a string) bool { return within(target, a) }) {
			bad = append(bad, target)
		}
	}
	return bad
}

func TestForbiddenFindsAWrongArrow(t *testing.T) {
	got := forbidden("router", []string{module + "/kv", module + "/raftnode", "fmt"}, arrows["router"])
	if !slices.Equal(got, []string{"raftnode"}) {
		t.Fatalf("forbidden = %v, want [raftnode]", got)
	}
}

func TestConfinedLibraries(t *testing.T) {
	for _, p := range listPackages(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			if imp == fileSystemSeam {
				continue
			}
			for lib, rooms := range confined {
				if !strings.HasPrefix(imp, lib) {
					continue
				}
				if !slices.ContainsFunc(rooms, func(r string) bool { return within(rel, r) }) {
					t.Errorf("%s imports %s, which is confined to %v", rel, imp, rooms)
				}
			}
		}
	}
}
