package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// The reasons for which a handshake fails; metrics count by them.
const (
	reasonPlain       = "not_tls"         // the other end does not speak TLS
	reasonSecret      = "other_secret"    // its certificate is by a secret that does not count
	reasonAuthority   = "other_authority" // it is by an authority that is not in --peer-ca
	reasonCertificate = "bad_certificate" // it is no certificate of ours, or out of date
	reasonName        = "other_name"      // it names another cluster
	reasonRole        = "other_role"      // it is for something else
	reasonProtocol    = "other_protocol"  // TLS, but no peer
	reasonRefused     = "certificate_refused"
	reasonOther       = "tls"
)

// HandshakeError says why a connection could not be secured.
type HandshakeError struct {
	reason string // short and of a fixed set
	text   string
	err    error
	header []byte // of what came instead of TLS
}

// Error gives a sentence for both logs.
func (e *HandshakeError) Error() string {
	switch {
	case e.text == "":
		return e.err.Error()
	case e.err == nil:
		return e.text
	default:
		return e.text + ": " + e.err.Error()
	}
}

// Reason gives the reason in a word, for metrics.
func (e *HandshakeError) Reason() string { return e.reason }

// Unwrap gives what went wrong below.
func (e *HandshakeError) Unwrap() error { return e.err }

// Instead gives the first bytes that came where TLS was expected, nil if it was TLS.
func (e *HandshakeError) Instead() []byte { return e.header }

// remoteAlert reports whether the other end said what it did not like.
func remoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// explain turns an error of the TLS library into what a person can act on. issued:
// this node's certificate is of an operator's making.
func explain(err error, dialled, issued bool) error {
	lacks, refuses := "no cluster secret", "it has another cluster secret"
	if issued {
		lacks, refuses = "no certificate for its peer port", "this node's certificate is not by an authority that it knows, or of another cluster"
	}
	var own *HandshakeError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &plain):
		e := &HandshakeError{reason: reasonPlain, err: err, header: plain.RecordHeader[:]}
		e.text = "the dialler does not speak TLS"
		if dialled {
			e.text = "the node there does not speak TLS"
		}
		e.text += ": it has " + lacks + ", or is no Quorate node"
		return e
	case remoteAlert(err):
		return &HandshakeError{reason: reasonRefused, err: err,
			text: "the other end refused the handshake, most likely because " + refuses + "; its log says why"}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return &HandshakeError{reason: reasonOther, err: err, text: "no TLS handshake in time"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return &HandshakeError{reason: reasonOther, err: err,
			text: "the connection ended during the TLS handshake; if this comes again, the other end has " + lacks}
	}
	return &HandshakeError{reason: reasonOther, err: fmt.Errorf("TLS handshake: %w", err)}
}

func quoted(s string) string { return strconv.Quote(clip(s)) }

func list(ids []string) string { return strings.Join(ids, ", ") }
