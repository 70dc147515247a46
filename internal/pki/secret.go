package pki

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	secretBytes = 32
	// secretPrefix begins the printed form; the digit is the form's version.
	secretPrefix = "qsec1_"
	// secretSumBytes is the length of the checksum at the end of the printed form.
	secretSumBytes = 4
	secretIDBytes  = 6
)

// secretText spells a secret so that a double click selects it, it can be read
// out, and case does not matter.
var secretText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Secret is what the nodes of a cluster share. Its zero value is no secret.
type Secret struct {
	raw [secretBytes]byte
	set bool
}

// NewSecret draws a secret. It never fails: without randomness the process ends.
func NewSecret() Secret {
	s := Secret{set: true}
	_, _ = rand.Read(s.raw[:])
	return s
}

// ParseSecret reads the printed form. Errors tell what is wrong with the text and
// show none of it.
func ParseSecret(text string) (Secret, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	body, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		if strings.HasPrefix(text, "qsec") {
			return Secret{}, errors.New("the cluster secret is of a kind that this release does not know")
		}
		return Secret{}, fmt.Errorf("a cluster secret begins with %s: make one with 'quorate secret new'", secretPrefix)
	}
	if want := secretText.EncodedLen(secretBytes + secretSumBytes); len(body) != want {
		return Secret{}, fmt.Errorf("the cluster secret has %d characters after %s, want %d: was it copied whole?", len(body), secretPrefix, want)
	}
	all, err := secretText.DecodeString(body)
	if err != nil || len(all) != secretBytes+secretSumBytes { // line breaks the decoder skips
		return Secret{}, errors.New("the cluster secret holds a character that no secret has: only a to z and 2 to 7")
	}
	s := Secret{set: true}
	copy(s.raw[:], all)
	if !bytes.Equal(all[secretBytes:], s.sum()) {
		return Secret{}, errors.New("the cluster secret is misspelt: its checksum does not fit")
	}
	if s.raw == [secretBytes]byte{} {
		return Secret{}, errors.New("the cluster secret is all zeros")
	}
	// The last character has bits to spare; only one spelling is right.
	if secretText.EncodeToString(all) != body {
		return Secret{}, errors.New("the cluster secret is misspelt: its last character does not fit")
	}
	return s, nil
}

// Reveal gives the printed form, for the one file that is to hold it.
func (s Secret) Reveal() string {
	return secretPrefix + secretText.EncodeToString(append(bytes.Clone(s.raw[:]), s.sum()...))
}

func (s Secret) sum() []byte {
	h := sha256.Sum256(append([]byte("quorate secret checksum "), s.raw[:]...))
	return h[:secretSumBytes]
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return !s.set }

// ID names the secret in logs and certificates. It says nothing about it.
func (s Secret) ID() string { return hex.EncodeToString(s.derive("id", secretIDBytes)) }

// derive gives n bytes that depend on the secret and on what they are for.
func (s Secret) derive(purpose string, n int) []byte {
	if !s.set {
		panic("pki: no secret")
	}
	out, err := hkdf.Key(sha256.New, s.raw[:], nil, "quorate 1 "+purpose, n)
	if err != nil {
		panic(err) // only for lengths beyond the hash's
	}
	return out
}

// String gives the id in words, and never the secret.
func (s Secret) String() string {
	if !s.set {
		return "no secret"
	}
	return "secret " + s.ID()
}

// Format writes String, whatever the verb: %x must not show the secret either.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue gives what logs show.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText gives String: an encoder must not write the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
