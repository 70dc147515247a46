package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/quorate-db/quorate/client"
)

// devTokenFile is where the root token of a local cluster is, in its data directory.
const devTokenFile = "root.token"

// devDeniedWait is how long the token may be refused at a start before it is given up: a
// node may not have heard yet of one that was just made.
const devDeniedWait = 5 * time.Second

// devToken is the root token of a local cluster whose nodes ask for tokens.
type devToken struct {
	text  string        // "" before the cluster has made it, and without --auth
	known bool          // an earlier start has shown it
	wait  time.Duration // for it to count
}

func (d *devCluster) tokenPath() string { return filepath.Join(d.dir, devTokenFile) }

// authArgs gives the flags that have the nodes ask for tokens, if that is wanted.
func (d *devCluster) authArgs() []string {
	if !d.o.auth {
		return nil
	}
	_, err := os.Lstat(d.tokenPath())
	d.token.known = err == nil
	return []string{"--auth", "--root-token-file", d.tokenPath()}
}

// waitToken waits until one of the nodes has made the root token.
func (d *devCluster) waitToken(ctx context.Context) error {
	if !d.o.auth {
		return nil
	}
	return d.cluster.Poll(ctx, 100*time.Millisecond, func(context.Context) error {
		text, err := os.ReadFile(d.tokenPath())
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the cluster's root token is not in %s; it is made once, so put it back if you took it away", d.tokenPath())
		}
		d.token.text = strings.TrimSpace(string(text))
		return err
	})
}

// showToken prints the root token, when it is new, and how commands find it.
func (d *devCluster) showToken() {
	if !d.o.auth {
		return
	}
	if !d.token.known {
		fmt.Fprintf(d.out, "root token, shown once: %s\n", d.token.text)
	}
	fmt.Fprintf(d.out, "clients need a token; for the commands in a terminal:\n  export %sTOKEN_FILE=%s\n", envPrefix, shellWords(d.tokenPath()))
}

// tokenDenied says what to do about a root token that was revoked.
func (d *devCluster) tokenDenied(err error) error {
	return fmt.Errorf("the token in %s is refused (%w): put one there that may administer", d.tokenPath(), err)
}

// shellWords writes words so that a shell reads them as they are.
func shellWords(words ...string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.Trim(w, shellPlain) != "" {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

// shellPlain are characters that mean nothing to a shell.
const shellPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:,=@%+-"

// client makes a client of all nodes; timeout 0 is the client's own.
func (d *devCluster) client(timeout time.Duration) (*client.Client, error) {
	return client.New(client.Config{Endpoints: d.cluster.Endpoints(), Timeout: timeout, Token: d.token.text, TLS: d.trust})
}
