//go:build blackbox

package blackbox

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/proc"
)

// TestDevAuth: dev prints the root token of a new cluster, once; the line that it prints
// has commands find it, and it is nobody else's to read.
func TestDevAuth(t *testing.T) {
	dir, port := filepath.Join(t.TempDir(), "data"), proc.FreePorts(t, 3, devPeerOffset)
	d := startDev(t, port, "--auth", "--nodes", "1", "--shards", "1", "--data-dir", dir)
	d.waitReady(t, 1, 1, 1)
	token, ok := strings.CutPrefix(d.line(t), "root token, shown once: ")
	if !ok || !strings.HasPrefix(token, "qrt_") {
		t.Fatalf("dev says %q", token)
	}
	d.line(t)
	path, ok := strings.CutPrefix(strings.TrimSpace(d.line(t)), "export QUORATE_TOKEN_FILE=")
	if path = strings.Trim(path, "'"); !ok || path != filepath.Join(dir, "root.token") {
		t.Fatalf("dev says %q", path)
	}
	if a := proc.MustDo(t, http.MethodGet, d.url(1, "/v1/cluster"), "", limit); a.Status != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", a.Status, a.Body)
	}
	cli := func(args ...string) proc.Finished {
		return proc.Run(t, binary(t), "", append(args, "--endpoint", d.url(1, ""), "--token-file", path)...)
	}
	if f := cli("put", "k", "v"); f.Code != 0 {
		t.Errorf("%+v", f)
	}
	checkPrivate(t, dir, token, path)

	if code := d.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, d.said())
	}
	d = startDev(t, port, "--auth", "--data-dir", dir)
	d.waitReady(t, 1, 1, 1)
	if line := d.line(t); strings.Contains(line, "qrt_") || strings.Contains(line, "shown once") {
		t.Errorf("the second start says %q", line)
	}
	if f := cli("get", "k"); f.Code != 0 || !strings.Contains(f.Stdout, "v") {
		t.Errorf("%+v", f)
	}
	if code := d.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, d.said())
	}
}

// line gives the next line that dev prints.
func (d *devRun) line(t *testing.T) string {
	t.Helper()
	late := time.NewTimer(proc.WaitMax)
	defer late.Stop()
	select {
	case line := <-d.lines:
		return line
	case <-late.C:
		t.Fatalf("dev prints nothing more: %s", d.said())
		return ""
	}
}

// stop ends dev as Ctrl-C does.
func (d *devRun) stop(t *testing.T) int {
	t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	return d.wait(t)
}

// checkPrivate: nothing that dev keeps is readable to others, and the token is in its own
// file alone.
func checkPrivate(t *testing.T, dir, token, path string) {
	t.Helper()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v, %v", dir, info.Mode(), err)
	}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		if has := strings.Contains(string(text), token); err == nil && has != (name == path) {
			err = fmt.Errorf("%s: the token is in it: %t", name, has)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", path, info.Mode(), err)
	}
}
