//go:build blackbox

package blackbox

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

// TestHTTPS serves one node over HTTPS with the cluster's certificate: the command line and
// the client reach it with what 'quorate cert' prints, and nobody does without, nor
// without TLS.
func TestHTTPS(t *testing.T) {
	dir, port := t.TempDir(), proc.FreePorts(t, 2, 0)
	secret, ca := filepath.Join(dir, "secret"), filepath.Join(dir, "ca.pem")
	if f := proc.Run(t, binary(t), "", "secret", "new", "--out", secret); f.Code != 0 {
		t.Fatalf("%+v", f)
	}
	printed := proc.Run(t, binary(t), "", "cert", "--cluster-secret-file", secret)
	if printed.Code != 0 || !strings.HasPrefix(printed.Stdout, "-----BEGIN CERTIFICATE-----") {
		t.Fatalf("%+v", printed)
	}
	if err := os.WriteFile(ca, []byte(printed.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	n := startAlone(t, "--data-dir", filepath.Join(dir, "data"), "--cluster-secret-file", secret, "--tls", "--replication-factor", "1",
		"--http-listen", fmt.Sprintf("127.0.0.1:%d", port), "--peer-listen", fmt.Sprintf("127.0.0.1:%d", port+1))
	endpoint := fmt.Sprintf("https://127.0.0.1:%d", port)
	trust, err := client.TrustCAFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, lean := range []bool{false, true} {
		c, err := client.New(client.Config{Endpoints: []string{endpoint}, TLS: trust, Lean: lean, RouteToLeader: true, Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		value := strings.Repeat("v", 100_000)
		if _, err := c.Put(t.Context(), "k", []byte(value), client.PutOptions{}); err != nil {
			t.Fatalf("%v\n%s", err, n.said())
		}
		if got, err := c.Get(t.Context(), "k", client.ReadOptions{}); err != nil || string(got.Value) != value {
			t.Errorf("%d bytes, %v", len(got.Value), err)
		}
		_ = c.Close()
	}
	for want, args := range map[int][]string{
		0: {"health", "--endpoint", endpoint, "--ca-file", ca},
		5: {"health", "--endpoint", endpoint},
		2: {"health", "--endpoint", endpoint, "--ca-file", secret},
	} {
		if f := proc.Run(t, binary(t), "", args...); f.Code != want {
			t.Errorf("%v: %+v, want %d", args, f, want)
		}
	}
	plain, err := proc.Do(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(endpoint, "https")+"/v1/kv/k", "", limit)
	if err != nil || plain.Status != http.StatusBadRequest || !strings.Contains(plain.Body, "https://") {
		t.Errorf("without TLS: %+v, %v", plain, err)
	}
}

// TestInsecureIsLoud: a node that was told to be open says so everywhere.
func TestInsecureIsLoud(t *testing.T) {
	dir, port := t.TempDir(), proc.FreePorts(t, 2, 0)
	n := startAlone(t, "--data-dir", dir, "--insecure", "--replication-factor", "1", "--http-listen", fmt.Sprintf(":%d", port),
		"--http-advertise", fmt.Sprintf("127.0.0.1:%d", port), "--peer-listen", fmt.Sprintf("127.0.0.1:%d", port+1))
	endpoint := fmt.Sprintf("http://127.0.0.1:%d", port)
	c, err := client.New(client.Config{Endpoints: []string{endpoint}, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "k", nil, client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if f := proc.Run(t, binary(t), "", "problems", "--endpoint", endpoint); !strings.Contains(f.Stdout, "--insecure") {
		t.Errorf("problems: %+v", f)
	}
	if a := proc.MustDo(t, http.MethodGet, endpoint+"/metrics", "", limit); !strings.Contains(a.Body, "\nquorate_insecure 1\n") {
		t.Error("quorate_insecure is not 1")
	}
	if !strings.Contains(n.said(), "NOT SECURED") {
		t.Errorf("the log does not say it: %s", n.said())
	}
}
