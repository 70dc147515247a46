package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// secretFileBytesMax bounds what is read of a file of secrets.
const secretFileBytesMax = 64 << 10

// ParseSecrets reads secrets, one a line, the one to mint with first. Empty lines
// and those that begin with # count for nothing.
func ParseSecrets(text string) ([]Secret, error) {
	var out []Secret
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := ParseSecret(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		for _, earlier := range out {
			if earlier == s {
				return nil, fmt.Errorf("line %d: cluster secret %s is there twice", n, s.ID())
			}
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no cluster secret in it")
	}
	if len(out) > SecretsMax {
		return nil, fmt.Errorf("%d cluster secrets: at most %d count at once", len(out), SecretsMax)
	}
	return out, nil
}

// ReadSecrets reads a file of secrets. It refuses one that others than its owner
// may read or write.
func ReadSecrets(path string) ([]Secret, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	secrets, err := ParseSecrets(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return secrets, nil
}

// readPrivate reads a file that is its owner's alone.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: others than its owner may use it (mode %04o): chmod 600 %s", path, mode.Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, secretFileBytesMax+1))
	if err == nil && len(data) > secretFileBytesMax {
		err = fmt.Errorf("%s: larger than %d bytes", path, secretFileBytesMax)
	}
	return data, err
}

// WriteSecret makes a file with one secret that only its owner may read. A file
// that is there already is an error that wraps os.ErrExist, and is left alone.
func WriteSecret(path string, s Secret) error {
	// Written aside and linked into place: whoever waits for the file sees it whole.
	part, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(part.Name())
	_, err = io.Copy(part, bytes.NewBufferString(s.Reveal()+"\n"))
	if err := errors.Join(err, part.Sync(), part.Close()); err != nil {
		return err
	}
	return os.Link(part.Name(), path)
}
