package httpd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// testTLS gives a server's configuration and the client's that fits.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}},
		&tls.Config{RootCAs: roots}
}

// overTLS gives a rig that speaks TLS, and what a client of it needs.
func overTLS(t *testing.T) (*rig, *tls.Config) {
	t.Helper()
	server, client := testTLS(t)
	return newRig(t, func(o *Options) { o.TLS = server }), client
}

// TestBothProtocolsOverTLS: whatever the client speaks, the same is served.
func TestBothProtocolsOverTLS(t *testing.T) {
	r, config := overTLS(t)
	for proto, force := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		tr := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: force}
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		for _, target := range []string{"/v1/limits", "/v1/kv/absent", "/v1/limits"} {
			resp, err := c.Get("https://" + r.addr + target)
			if err != nil {
				t.Fatalf("%s %s: %v", proto, target, err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.Proto != proto || resp.StatusCode != 200 && resp.StatusCode != 404 {
				t.Errorf("%s %s: %s %d %v", proto, target, resp.Proto, resp.StatusCode, err)
			}
		}
		value := strings.Repeat("v", 300_000)
		for _, size := range []int{1, 30_000, 300_000} {
			req, err := http.NewRequest(http.MethodPut, "https://"+r.addr+"/v1/kv/k", strings.NewReader(value[:size]))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp, err = c.Get("https://" + r.addr + "/v1/kv/k"); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(got) != value[:size] {
				t.Errorf("%s: %d bytes came back of %d, %v", proto, len(got), size, err)
			}
		}
		tr.CloseIdleConnections()
	}
}

// TestPlainClientsGetNothingOverTLS: neither an answer nor a place for long.
func TestPlainClientsGetNothingOverTLS(t *testing.T) {
	server, _ := testTLS(t)
	r := newRig(t, func(o *Options) { o.TLS, o.Limits.HeaderTimeout = server, 100*time.Millisecond })
	for _, text := range []string{"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n", "", "\x16\x03\x01"} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() || strings.Contains(string(got), "HTTP/1.1 2") || (text != "" && text[0] == 'G') != strings.Contains(string(got), "https://") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		_ = c.Close()
	}
}

// Over TLS too net/http is the dumb twin.
func TestFastConnectionsAnswerLikeNetHTTPOverTLS(t *testing.T) {
	fast, config := overTLS(t)
	_, addr := plainRig(t)
	for seed := range uint64(60) {
		rnd := mathrand.New(mathrand.NewPCG(seed, 3))
		text, methods := script(rnd)
		cuts := []int{rnd.IntN(len(text)), rnd.IntN(len(text))}
		slices.Sort(cuts)
		secure, err := tls.Dial("tcp", fast.addr, config)
		if err != nil {
			t.Fatal(err)
		}
		got, want := exchangeOn(t, secure, text, methods, cuts), exchangeBytes(t, addr, text, methods, nil)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d\n%q\nfast: %q\nnet/http: %q", seed, text, got, want)
		}
	}
}
