package pki

import "crypto/tls"

// WebConfig is for a server of clients whose certificate is whatever get gives at
// each handshake.
func WebConfig(get func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return get() },
	}
}
