package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/quorate-db/quorate/kv"
)

// A token is written qrt_ID_SECRET: 16 hexadecimal digits, by which it is found and
// which are no secret, and 256 random bits in base64url.
const (
	textPrefix  = "qrt_"
	idDigits    = 16
	secretBytes = 32
	secretText  = 43 // of base64url
	textLength  = len(textPrefix) + idDigits + 1 + secretText
	// headerBytesMax bounds what is looked at of an Authorization header.
	headerBytesMax = 256
)

// Mint makes a token: the text that its owner gets, and what the cluster keeps of it.
func Mint() (text, id string, hash kv.TokenHash) {
	var b [idDigits/2 + secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	id = hex.EncodeToString(b[:idDigits/2])
	secret := b[idDigits/2:]
	return textPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret), id, sha256.Sum256(secret)
}

// Parse reads a token's text. Each token has exactly one.
func Parse(text string) (id string, hash kv.TokenHash, ok bool) {
	if len(text) != textLength || !strings.HasPrefix(text, textPrefix) || text[len(textPrefix)+idDigits] != '_' {
		return "", hash, false
	}
	id = text[len(textPrefix) : len(textPrefix)+idDigits]
	var secret [secretBytes]byte
	n, err := strict.Decode(secret[:], []byte(text[textLength-secretText:]))
	if err != nil || n != secretBytes || !kv.ValidTokenID(id) {
		return "", hash, false
	}
	return id, sha256.Sum256(secret[:]), true
}

// strict refuses texts that are another way to write the same bytes, line breaks too
// (they would make the text longer than it may be).
var strict = base64.RawURLEncoding.Strict()

// FromHeader gives the token in the values of an Authorization header. None: there is
// no such header. Not ok: there is one, but no single bearer token of ours in it.
func FromHeader(values []string) (text string, none, ok bool) {
	switch {
	case len(values) == 0:
		return "", true, false
	case len(values) > 1 || len(values[0]) > headerBytesMax:
		return "", false, false
	}
	scheme, text, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return "", false, false
	}
	return strings.TrimLeft(text, " "), false, true
}
