package server

import (
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/pki"
)

// TestBeyondLoopback: only with a secret or by saying so.
func TestBeyondLoopback(t *testing.T) {
	secrets := []pki.Secret{pki.NewSecret()}
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
