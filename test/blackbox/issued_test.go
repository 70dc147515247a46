//go:build blackbox

package blackbox

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/test/operator"
	"github.com/quorate-db/quorate/test/proc"
)

// half of a certificate's life is nothing to be told of, a twelfth is.
const half, twelfth = operator.Life / 2, operator.Life / 12

// TestCertificatesOfOnesOwn runs a cluster on certificates by an authority and replaces
// all of them and the authority under load: no request fails, and connections by what
// was there before end.
func TestCertificatesOfOnesOwn(t *testing.T) {
	f, old, next := operator.Files{Dir: t.TempDir()}, operator.New(t, "old", half), operator.New(t, "next", half)
	nodes := []string{"1", "2", "3"}
	for _, node := range nodes {
		f.Trust(t, node, old)
		f.Issue(t, node, "quorate://prod/node", old, half)
	}
	c := proc.Describe(t, binary(t), proc.Shape{Nodes: 3, Shards: 1, Plain: true, NodeArgs: func(_ *proc.Cluster, i int) []string { return f.Args(nodes[i-1]) }})
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t)
	load := startImpatient(t, c)
	changed := func(times int) { waitChanged(t, c, true, "certificates for the peer port changed", times) }
	for _, node := range nodes {
		f.Trust(t, node, old, next)
	}
	changed(1)
	for _, node := range nodes {
		f.Issue(t, node, "quorate://prod/node", next, half)
	}
	changed(2)
	for _, node := range nodes {
		f.Trust(t, node, next)
	}
	removed := time.Now()
	changed(3)
	waitReplaced(t, c, removed, 2)
	load.end(t)

	end := f.Issue(t, "1", "quorate://prod/node", next, twelfth)
	proc.Eventually(t, proc.WaitMax, "node 1 has seen that its certificate ends", func(ctx context.Context) error {
		a, err := proc.Do(ctx, http.MethodGet, c.Endpoint(1)+"/metrics", "", limit)
		if want := metricOfEnd("peer-cert", end); err == nil && !strings.Contains(a.Body, want) {
			err = fmt.Errorf("no %s", want)
		}
		return err
	})
	if f := proc.Run(t, binary(t), "", "problems", "--endpoint", c.Endpoint(1)); !strings.Contains(f.Stdout, "ends at "+end.UTC().Format(time.RFC3339)) {
		t.Errorf("problems: %+v", f)
	}
	if f := proc.Run(t, binary(t), "", "problems", "--endpoint", c.Endpoint(2)); strings.Contains(f.Stdout, "ends at") {
		t.Errorf("node 2 has such problems too: %+v", f)
	}
}

// metricOfEnd is the line that tells when a certificate ends.
func metricOfEnd(use string, end time.Time) string {
	return fmt.Sprintf("\nquorate_certificate_not_after_timestamp_seconds{certificate=%q} %s\n", use, strconv.FormatFloat(float64(end.Unix()), 'g', -1, 64))
}

// TestCertificatesForClients: a node that serves HTTPS with files and asks clients for
// certificates by an authority in another one tells when each of them ends.
func TestCertificatesForClients(t *testing.T) {
	f, o, port := operator.Files{Dir: t.TempDir()}, operator.New(t, "operator", twelfth), proc.FreePorts(t, 2, 0)
	f.Trust(t, "x", o)
	f.Issue(t, "x", "quorate://any/web", o, twelfth)
	f.Issue(t, "me", "quorate://any/client", o, half)
	n := startAlone(t, "--data-dir", filepath.Join(f.Dir, "data"), "--replication-factor", "1",
		"--tls-cert", f.Path("x", "cert"), "--tls-key", f.Path("x", "key"), "--tls-ca", f.Path("x", "ca"),
		"--http-listen", fmt.Sprintf("127.0.0.1:%d", port), "--peer-listen", fmt.Sprintf("127.0.0.1:%d", port+1))
	args := []string{"problems", "--endpoint", fmt.Sprintf("https://127.0.0.1:%d", port),
		"--ca-file", f.Path("x", "ca"), "--cert-file", f.Path("me", "cert"), "--key-file", f.Path("me", "key")}
	proc.Eventually(t, proc.WaitMax, "problems tell of both", func(context.Context) error {
		got := proc.Run(t, binary(t), "", args...)
		for _, what := range []string{"certificate for clients", "authority of clients"} {
			if !strings.Contains(got.Stdout, what) {
				return fmt.Errorf("no %s in %+v\n%s", what, got, n.said())
			}
		}
		return nil
	})
}

// TestPeerFilesThatCannotBeUsed: a node does not start with them, and says why.
func TestPeerFilesThatCannotBeUsed(t *testing.T) {
	f, o := operator.Files{Dir: t.TempDir()}, operator.New(t, "operator", half)
	for words, name := range map[string]string{
		"is for a client, not for a node": "quorate://prod/client",
		"is not of the form":              "quorate://prod",
		"this node's certificate is for":  "quorate://prod/node/0000000000000007",
	} {
		f.Trust(t, "x", o)
		f.Issue(t, "x", name, o, half)
		args := append([]string{"serve", "--data-dir", t.TempDir(), "--http-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"}, f.Args("x")...)
		got := proc.Run(t, binary(t), "", args...)
		if got.Code != 1 || !strings.Contains(got.Stderr, words) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
