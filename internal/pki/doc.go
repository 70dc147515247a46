// Package pki turns the one value that all nodes of a cluster share into
// everything that secures it. From a secret each node derives the same certificate
// authority and mints its own short-lived certificates from it, so that there is
// nothing to issue, copy or renew.
//
//	Secret (256 random bits) → Authority (key and certificate, by HKDF)
//	  → Keyring (all secrets that are valid now; mints with the first, trusts all)
//	  → Conn (a connection of which both ends have proved who they are)
//
// Issued does the same as a Keyring with certificates of an operator's making.
//
// # Invariants
//
//  1. Two nodes with the same secret derive the same authority, byte for byte.
//  2. A secret leaves the package only through Secret.Reveal. Printing, logging or
//     encoding one gives its public id.
//  3. Being signed by the authority proves nothing but knowledge of the secret, or an operator's trust in somebody: the
//     other end has to have the role that is expected of it, and the name.
//  4. A handshake is never abbreviated (no session tickets), so that a secret that
//     was removed is refused by the next one.
package pki
