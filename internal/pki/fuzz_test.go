package pki

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
)

// Whatever is in a file of secrets: it is read in one way or refused, and an error
// shows none of it.
func FuzzParseSecrets(f *testing.F) {
	good := fixed().Reveal()
	for _, text := range []string{"", good, "# x\n" + good + "\n", good + "\n" + good, good[:20], strings.ToUpper(good), "qsec2_" + good[6:], "\x00\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		secrets, err := ParseSecrets(text)
		if err != nil {
			for line := range strings.Lines(text) {
				// What begins like one may be one, misspelt.
				secret, ok := strings.CutPrefix(strings.TrimSpace(line), secretPrefix)
				if ok && len(secret) > 8 && strings.Contains(err.Error(), secret) {
					t.Fatalf("%q is in %v", secret, err)
				}
			}
			return
		}
		for _, s := range secrets {
			again, err := ParseSecret(s.Reveal())
			if err != nil || again != s {
				t.Fatalf("%v does not read what it wrote: %v", s, err)
			}
		}
	})
}

// Whatever name a certificate holds: it is read in one way or refused.
func FuzzName(f *testing.F) {
	for _, text := range []string{"quorate://c/node/1", "quorate:///node/ab", "quorate://c/node/1/2", "quorate:c/node/1", "quorate://u@c/node/1", "quorate://c/node/1#x", "quorate://c/node", "quorate://c/", "quorate://c//1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		name, err := nameIn(&x509.Certificate{URIs: []*url.URL{u}})
		if issued, err2 := issuedNameIn(&x509.Certificate{URIs: []*url.URL{u}}); err == nil && (err2 != nil || issued != name) {
			t.Fatalf("%q is %+v, and as an issued name %+v, %v", text, name, issued, err2)
		} else if name, err = issued, err2; err != nil {
			return
		}
		again, err := issuedNameIn(&x509.Certificate{URIs: []*url.URL{name.uri()}})
		if err != nil || again != name {
			t.Fatalf("%q is %+v, whose name is %+v, %v", text, name, again, err)
		}
	})
}
