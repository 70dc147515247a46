package client

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/quorate-db/quorate/kv"
)

// TestTrust: with the authority's file both transports reach an HTTPS server; with
// another, or none, a write certainly was not applied.
func TestTrust(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"5"`)
		w.WriteHeader(http.StatusNoContent)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	good := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(good, text, 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := TrustCAFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config Config
		ok     bool
	}{
		"trusted":       {Config{TLS: trust}, true},
		"trusted, lean": {Config{TLS: trust, Lean: true}, true},
		"unknown":       {Config{}, false},
		"unknown, lean": {Config{Lean: true}, false},
	} {
		c.config.Endpoints, c.config.Retry.Attempts = []string{s.URL}, 1
		cl, err := New(c.config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.Put(t.Context(), "k", nil, PutOptions{})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && OutcomeOf(err) != kv.OutcomeNotApplied {
			t.Errorf("%s: outcome %q of %v", name, OutcomeOf(err), err)
		}
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "nonsense"} {
		if _, err := TrustCA([]byte(bad)); err == nil {
			t.Errorf("took %q for an authority", bad)
		}
	}
	if _, err := TrustCAFile(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("took no file for an authority")
	}
}
