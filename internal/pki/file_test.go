package pki

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.secret")
	s := NewSecret()
	if err := WriteSecret(path, s); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	if got, err := ReadSecrets(path); err != nil || !slices.Equal(got, []Secret{s}) {
		t.Fatalf("%v, %v", got, err)
	}
	if err := WriteSecret(path, NewSecret()); !errors.Is(err, os.ErrExist) {
		t.Fatalf("written over: %v", err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Fatalf("left behind: %v", files)
	}
	for _, mode := range []os.FileMode{0o400, 0o600, 0o604, 0o640, 0o620, 0o601, 0o644, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSecrets(path)
		if private := mode&0o077 == 0; private != (err == nil) {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: no help in %v", mode, err)
		}
	}
	if _, err := ReadSecrets(t.TempDir()); err == nil {
		t.Error("read a folder")
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, bytes.Repeat([]byte("#\n"), secretFileBytesMax), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecrets(huge); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("huge: %v", err)
	}
}

// TestFollowSecrets: a file that changes is taken over, one that cannot be used changes
// nothing and is told of once.
func TestFollowSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	a, b := NewSecret(), NewSecret()
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	k, err := NewKeyring([]Secret{a}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	look := FollowSecrets(path, k, slog.New(slog.NewTextHandler(&log, nil)))
	step := func(want []Secret, words string) {
		t.Helper()
		log.Reset()
		look()
		look()
		var ids []string
		for _, s := range want {
			ids = append(ids, s.ID())
		}
		if !slices.Equal(k.IDs(), ids) {
			t.Fatalf("have %v, want %v", k.IDs(), ids)
		}
		lines := strings.Count(log.String(), "\n")
		if words == "" && lines != 0 || words != "" && (lines != 1 || !strings.Contains(log.String(), words)) {
			t.Fatalf("want one line with %q, got %q", words, log.String())
		}
	}
	write(a.Reveal(), 0o600)
	step([]Secret{a}, "")
	write(a.Reveal()+"\n"+b.Reveal(), 0o600)
	step([]Secret{a, b}, "changed")
	write(b.Reveal()+"\n"+a.Reveal(), 0o644)
	step([]Secret{a, b}, "chmod 600")
	write("nonsense", 0o600)
	step([]Secret{a, b}, "begins with")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step([]Secret{a, b}, "no such file")
	write(b.Reveal(), 0o600)
	step([]Secret{b}, "changed")
}
