package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Grant allows a role, or denies it, on the keys that begin with a prefix; none means
// all keys.
type Grant struct {
	Role   kv.TokenRole
	Prefix string
	Deny   bool
}

type grantJSON struct {
	Role      kv.TokenRole `json:"role"`
	Prefix    *string      `json:"prefix,omitempty"`
	PrefixB64 []byte       `json:"prefix_b64,omitempty"`
	Deny      bool         `json:"deny,omitempty"`
}

// MarshalJSON writes the prefix as text if it is, else as base64.
func (g Grant) MarshalJSON() ([]byte, error) {
	out := grantJSON{Role: g.Role, Deny: g.Deny}
	if g.Prefix != "" {
		t := textOf(g.Prefix)
		out.Prefix, out.PrefixB64 = t.text, t.bytes
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads either.
func (g *Grant) UnmarshalJSON(b []byte) error {
	var in grantJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*g = Grant{Role: in.Role, Prefix: stringOf(in.Prefix, in.PrefixB64), Deny: in.Deny}
	return nil
}

// Token is a credential of the cluster.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Grants  []Grant   `json:"grants"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Rate    float64   `json:"rate,omitempty"`   // requests a second at each node; 0 = no limit
	Root    bool      `json:"root,omitempty"`
	// Secret is the token itself. Only CreateToken gives it.
	Secret string `json:"token,omitempty"`
}

// TokenOrder says what a token is to be.
type TokenOrder struct {
	Name   string   `json:"name,omitempty"`
	Grants []Grant  `json:"grants"`
	TTL    Duration `json:"ttl,omitzero"` // 0: it does not expire
	Rate   float64  `json:"rate,omitempty"`
}

// CreateToken makes a token. Its secret is in the answer and nowhere else; if no answer
// comes, there may be a token that nobody has, which Tokens shows.
func (c *Client) CreateToken(ctx context.Context, order TokenOrder) (Token, error) {
	body, err := json.Marshal(order)
	if err != nil {
		return Token{}, err
	}
	req := request{method: http.MethodPost, target: "/v1/tokens", body: body, contentType: "application/json", accept: "application/json", control: true}
	var t Token
	err = c.controlDo(ctx, &req, &t)
	return t, err
}

// Tokens gives all tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var out struct {
		Tokens []Token `json:"tokens"`
	}
	err := c.getJSON(ctx, "/v1/tokens", &out)
	return out.Tokens, err
}

// OwnToken gives the token of this client.
func (c *Client) OwnToken(ctx context.Context) (Token, error) {
	var t Token
	err := c.getJSON(ctx, "/v1/tokens/self", &t)
	return t, err
}

// RevokeToken takes a token away, by its id.
func (c *Client) RevokeToken(ctx context.Context, id string) (Token, error) {
	var t Token
	err := c.control(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), false, &t)
	return t, err
}
