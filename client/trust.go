package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TrustCA gives a configuration for Config.TLS that trusts the authorities in PEM
// text, such as 'quorate cert' prints, and no others.
func TrustCA(pem []byte) (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("client: no certificate of an authority in PEM form")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

// TrustCAFile is TrustCA for a file.
func TrustCAFile(path string) (*tls.Config, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	config, err := TrustCA(pem)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, path)
	}
	return config, nil
}

// tlsFailed reports whether a connection failed before it was secured: nothing was
// sent on it.
func tlsFailed(err error) bool {
	var verification *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	return errors.As(err, &verification) || errors.As(err, &header)
}
