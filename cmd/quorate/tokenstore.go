package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/quorate-db/quorate/client"
)

// tokenEnv names the variable that holds a token. There is no flag for one: what is on
// a command line is shown to everybody on the machine.
const tokenEnv = "QUORATE_TOKEN"

// token gives the token that a command sends: from --token-file, else from
// QUORATE_TOKEN, else what 'quorate login' stored for the first endpoint that has one.
func (f *clientFlags) token() (string, error) {
	if f.tokenFile != "" {
		b, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	if text, ok := f.env(tokenEnv); ok && text != "" {
		return strings.TrimSpace(text), nil
	}
	for _, e := range f.endpoints {
		text, err := readStored(f.env, e)
		if text != "" || err != nil {
			return text, err
		}
	}
	return "", nil
}

// storedPath gives the file of an endpoint's token, "" where there is no place for it.
// A token that was given over https is not sent over http.
func storedPath(env lookupEnv, endpoint string) string {
	base, ok := env("QUORATE_CONFIG_DIR")
	if !ok || base == "" {
		if base, ok = env("XDG_CONFIG_HOME"); !ok || base == "" {
			home, ok := env("HOME")
			if !ok || home == "" {
				return ""
			}
			base = filepath.Join(home, ".config")
		}
		base = filepath.Join(base, "quorate")
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	return filepath.Join(base, "tokens", url.QueryEscape(strings.TrimRight(endpoint, "/")))
}

func readStored(env lookupEnv, endpoint string) (string, error) {
	path := storedPath(env, endpoint)
	if path == "" {
		return "", nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("%s: others may read the token in it; revoke it, and make the file yours alone (chmod 600)", path)
	}
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// store keeps a token for an endpoint, whole or not at all, for its owner alone.
func store(env lookupEnv, endpoint, token string) (path string, err error) {
	path = storedPath(env, endpoint)
	if path == "" {
		return "", errors.New("there is no place to keep a token: set HOME or QUORATE_CONFIG_DIR")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, writePrivate(path, token)
}

// writePrivate writes a line to a file, whole or not at all, for its owner alone.
func writePrivate(path, line string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(line + "\n")
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// tokenOut is where `token create` puts a token: a file, or standard output.
type tokenOut struct {
	path string // "" = standard output
	keep bool   // a file that is there already is fine
}

// ready is asked before a token is made. kept: there is one already.
func (o tokenOut) ready(talk io.Writer) (kept bool, err error) {
	if o.path == "" {
		if o.keep {
			return false, usagef("--keep goes with --out")
		}
		return false, nil
	}
	switch _, err := os.Lstat(o.path); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !o.keep:
		return false, fmt.Errorf("%s exists already; no token was made", o.path)
	}
	fmt.Fprintf(talk, "%s is there already\n", o.path)
	return true, nil
}

// write keeps a token that was made.
func (o tokenOut) write(talk io.Writer, t client.Token) error {
	if err := writePrivate(o.path, t.Secret); err != nil {
		return fmt.Errorf("token %s was made and could not be written, so nobody has it; revoke it: %w", t.ID, err)
	}
	fmt.Fprintf(talk, "%s holds token %s\n", o.path, t.ID)
	return nil
}

// forget removes what is stored for an endpoint.
func forget(env lookupEnv, endpoint string) error {
	path := storedPath(env, endpoint)
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
