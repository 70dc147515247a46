package server

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
)

func TestWebTLSThatIsNone(t *testing.T) {
	secrets := []pki.Secret{pki.NewSecret()}
	for want, s := range map[string]Security{
		"--tls-cert and --tls-key go together":       {Web: WebTLS{Cert: "c"}},
		"--tls: the certificate is derived":          {Web: WebTLS{Cluster: true}},
		"--tls: the certificate is derived from":     {Peer: pki.Files{Cert: "c", Key: "k", CA: "a"}, Web: WebTLS{Cluster: true}},
		"--tls-ca: goes with":                        {Web: WebTLS{CA: "c"}},
		"--tls-host: goes with":                      {Web: WebTLS{Hosts: []string{"h"}, Cert: "c", Key: "k"}},
		"--tls-host \"\": want a name or an address": {Secrets: secrets, Web: WebTLS{Cluster: true, Hosts: []string{""}}},
	} {
		if err := s.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if err := (Security{Secrets: secrets, Web: WebTLS{Cluster: true, Hosts: []string{"h"}, CA: "c"}}).validate(); err != nil {
		t.Error(err)
	}
}

func TestWebHosts(t *testing.T) {
	hosts := webHosts(Address{Listen: "10.0.0.1:7001", Advertise: "db1.example:7001"}, []string{"db.example"})
	for _, want := range []string{"10.0.0.1", "db1.example", "db.example", "localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(hosts, want) {
			t.Errorf("%s is not in %v", want, hosts)
		}
	}
	if all := webHosts(Address{Listen: ":7001", Advertise: "[::]:7001"}, nil); slices.Contains(all, "") || slices.Contains(all, "::") {
		t.Errorf("%v", all)
	}
}

// TestBeyondLoopback: only with a secret or by saying so.
func TestBeyondLoopback(t *testing.T) {
	secrets := []pki.Secret{pki.NewSecret()}
	files := pki.Files{Cert: "c", Key: "k", CA: "a"}
	for name, c := range map[string]struct {
		security Security
		refused  string // "" = not
		open     bool
	}{
		"nothing":             {Security{}, "--insecure", false},
		"insecure":            {Security{Insecure: true}, "", true},
		"secret":              {Security{Secrets: secrets}, "", false},
		"file":                {Security{SecretFile: "f"}, "", false},
		"secret and insecure": {Security{Secrets: secrets, Insecure: true}, "", false},
		"certificates":        {Security{Peer: files}, "", false},
		"one of three":        {Security{Peer: pki.Files{Cert: "c"}}, "go together", false},
		"two of three":        {Security{Peer: pki.Files{Cert: "c", Key: "k"}}, "go together", false},
		"both":                {Security{Peer: files, Secrets: secrets}, "one or the other", false},
		"both, in a file":     {Security{Peer: files, SecretFile: "f"}, "one or the other", false},
		"secret and file":     {Security{Secrets: secrets, SecretFile: "f"}, "give one of them", false},
	} {
		for _, open := range []func(*Config){
			func(c *Config) { c.HTTP.Listen, c.HTTP.Advertise = "10.0.0.1:7001", "" },
			func(c *Config) { c.Peer.Listen, c.Peer.Advertise = "10.0.0.1:7101", "" },
		} {
			config := validConfig()
			config.Security = c.security
			open(&config)
			err := config.Defaulted().Validate()
			if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v", name, err)
			}
			if config.Security.open() != c.open {
				t.Errorf("%s: open is %t", name, config.Security.open())
			}
		}
	}
}

func TestEndingProblem(t *testing.T) {
	end := time.Now()
	for _, c := range []struct {
		now      time.Time
		severity kv.Severity
		says     string
	}{{end.Add(-time.Hour), kv.SeverityWarning, " ends at "}, {end.Add(time.Hour), kv.SeverityCritical, " ended at "}} {
		if p := endingProblem(1, "a", end, c.now); p.Severity != c.severity || !strings.Contains(p.Summary, c.says) {
			t.Errorf("%+v", p)
		}
	}
}
