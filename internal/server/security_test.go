package server

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

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

// TestBeyondLoopback: clients only with tokens, nodes only with a secret, or by saying so.
func TestBeyondLoopback(t *testing.T) {
	secrets := []pki.Secret{pki.NewSecret()}
	web := WebTLS{Cluster: true}
	files := pki.Files{Cert: "c", Key: "k", CA: "a"}
	for name, c := range map[string]struct {
		security Security
		auth     bool
		clients  string // why listening for clients is refused; "" = it is not
		peers    string
		exposed  exposure
	}{
		"nothing":               {clients: "--auth", peers: "--cluster-secret-file"},
		"insecure":              {security: Security{Insecure: true}, exposed: exposure{clients: true, peers: true}},
		"secret":                {security: Security{Secrets: secrets}, clients: "--auth"},
		"secret and TLS":        {security: Security{Secrets: secrets, Web: web}, clients: "--auth"},
		"file":                  {security: Security{SecretFile: "f"}, clients: "--auth"},
		"auth":                  {auth: true, peers: "--cluster-secret-file", exposed: exposure{clear: true}},
		"auth and insecure":     {security: Security{Insecure: true}, auth: true, exposed: exposure{peers: true, clear: true}},
		"secret and insecure":   {security: Security{Secrets: secrets, Insecure: true}, exposed: exposure{clients: true}},
		"secret and auth":       {security: Security{Secrets: secrets}, auth: true, exposed: exposure{clear: true}},
		"secret, auth, TLS":     {security: Security{Secrets: secrets, Web: web}, auth: true},
		"all, and insecure too": {security: Security{Secrets: secrets, Web: web, Insecure: true}, auth: true},
		"secret and file":       {security: Security{Secrets: secrets, SecretFile: "f"}, clients: "give one of them", peers: "give one of them"},
		"certificates":          {security: Security{Peer: files}, clients: "--auth"},
		"one of three":          {security: Security{Peer: pki.Files{Cert: "c"}}, clients: "go together", peers: "go together"},
		"two of three":          {security: Security{Peer: pki.Files{Cert: "c", Key: "k"}}, clients: "go together", peers: "go together"},
		"both":                  {security: Security{Peer: files, Secrets: secrets}, clients: "one or the other", peers: "one or the other"},
		"both, in a file":       {security: Security{Peer: files, SecretFile: "f"}, clients: "one or the other", peers: "one or the other"},
	} {
		config := func(http, peer string) Config {
			out := validConfig()
			out.Security, out.Auth.On = c.security, c.auth
			out.HTTP, out.Peer = Address{Listen: http}, Address{Listen: peer}
			return out.Defaulted()
		}
		clients, peers := config("10.0.0.1:7001", "127.0.0.1:7101"), config("127.0.0.1:7001", "10.0.0.1:7101")
		for _, x := range []struct {
			config Config
			want   string
		}{{clients, c.clients}, {peers, c.peers}} {
			if err := x.config.Validate(); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %v, want %q", name, err, x.want)
			}
		}
		got := exposure{clients: clients.exposure().clients, peers: peers.exposure().peers, clear: clients.exposure().clear}
		if got != c.exposed || config("[::1]:7001", "localhost:7101").exposure() != (exposure{}) {
			t.Errorf("%s: %+v, want %+v, and nothing on loopback", name, got, c.exposed)
		}
	}
}

// TestExposureIsSaid: in the log and in the problems, and only what is so.
func TestExposureIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Config)
		codes []string
		says  []string
	}{
		"closed":  {func(*Config) {}, nil, nil},
		"clients": {func(c *Config) { c.HTTP.Listen = ":7001" }, []string{"insecure"}, []string{"port for clients can", "--auth"}},
		"peers":   {func(c *Config) { c.Peer.Listen = "0.0.0.0:1" }, []string{"insecure"}, []string{"port for other nodes can", "secret new"}},
		"both": {func(c *Config) { c.HTTP.Listen, c.Peer.Listen = "[::]:7001", "db:1" }, []string{"insecure"},
			[]string{"port for clients and its port for other nodes", "--auth", "secret new"}},
		"clear":                   {func(c *Config) { c.HTTP.Listen, c.Auth.On = ":7001", true }, []string{"tokens-in-clear"}, []string{"over plain HTTP", "--tls"}},
		"closed by a certificate": {func(c *Config) { c.HTTP.Listen, c.Auth.On, c.Security.Web.Cert = ":7001", true, "c" }, nil, nil},
	} {
		config := validConfig()
		config.Security.Insecure = true
		c.spoil(&config)
		var log strings.Builder
		(&process{config: config, log: slog.New(slog.NewTextHandler(&log, nil))}).warnIfExposed()
		problems := config.exposure().problems(1, "n")
		var codes []string
		told := ""
		for _, p := range problems {
			codes = append(codes, p.Code)
			told += p.Summary + p.Help
			if p.Node != 1 || p.Severity != kv.SeverityWarning {
				t.Errorf("%s: %+v", name, p)
			}
		}
		if !slices.Equal(codes, c.codes) || (log.String() == "") != (len(codes) == 0) {
			t.Errorf("%s: problems %q, log %s", name, codes, log.String())
		}
		for _, want := range c.says {
			if !strings.Contains(told, want) || !strings.Contains(log.String(), want) {
				t.Errorf("%s: %q is not in %s\nor not in %s", name, want, told, log.String())
			}
		}
	}
}
