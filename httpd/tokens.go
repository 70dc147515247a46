package httpd

import (
	"net/http"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
)

// tokenBodyMax bounds the body of an order for a token: as many prefixes as there may
// be, in base64 or escaped.
const tokenBodyMax = 1 << 20

type grantJSON struct {
	Role      kv.TokenRole `json:"role"`
	Prefix    *string      `json:"prefix,omitempty"`
	PrefixB64 []byte       `json:"prefix_b64,omitempty"`
	Deny      bool         `json:"deny,omitempty"`
}

type tokenJSON struct {
	ID      string      `json:"id"`
	Name    string      `json:"name"`
	Grants  []grantJSON `json:"grants"`
	Created string      `json:"created"`
	Expires string      `json:"expires,omitempty"`
	Rate    float64     `json:"rate,omitempty"`
	Root    bool        `json:"root,omitempty"`
	Token   string      `json:"token,omitempty"` // only where it was just made
}

func asTokenJSON(t *kv.Token) tokenJSON {
	out := tokenJSON{ID: t.ID, Name: t.Name, Grants: make([]grantJSON, len(t.Grants)), Created: timeText(t.CreatedMs), Rate: t.Rate, Root: t.Root}
	if t.ExpiresMs != 0 {
		out.Expires = timeText(t.ExpiresMs)
	}
	for i, g := range t.Grants {
		out.Grants[i] = grantJSON{Role: g.Role, Deny: g.Deny}
		out.Grants[i].Prefix, out.Grants[i].PrefixB64 = textOrBytes(g.Prefix)
	}
	return out
}

// tokens gives what makes and revokes tokens.
func (x *exchange) tokens() (Tokens, error) {
	if x.s.opts.Tokens == nil {
		return nil, x.refused(kv.CodeUnavailable, "this node has no control plane")
	}
	return x.s.opts.Tokens, nil
}

// getTokens serves GET /v1/tokens.
func (s *Server) getTokens(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	tokens, err := x.tokens()
	if err != nil {
		return err
	}
	all, err := tokens.Tokens(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		Tokens []tokenJSON `json:"tokens"`
	}{make([]tokenJSON, len(all))}
	for i := range all {
		out.Tokens[i] = asTokenJSON(&all[i])
	}
	return x.reply(out)
}

// getOwnToken serves GET /v1/tokens/self: what the caller's token may do.
func (s *Server) getOwnToken(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	if x.caller.who == nil {
		return x.refused(kv.CodeNotFound, "this node asks for no tokens")
	}
	return x.reply(asTokenJSON(&x.caller.who.Token))
}

// createToken serves POST /v1/tokens. Its answer is the one place where the token is
// shown.
func (s *Server) createToken(x *exchange) error {
	if err := x.unrepeatable(); err != nil {
		return err
	}
	if err := x.plain(); err != nil {
		return err
	}
	order, err := x.tokenBody()
	if err != nil {
		return err
	}
	tokens, err := x.tokens()
	if err != nil {
		return err
	}
	var text string
	text, order.ID, order.Hash = access.Mint()
	if err := order.Validate(); err != nil {
		return invalid(err.Error())
	}
	x.caller.target = order.ID
	made, err := tokens.CreateToken(x.ctx, order)
	if err != nil {
		return err
	}
	out := asTokenJSON(&made)
	out.Token = text
	return x.replyWith(http.StatusCreated, out)
}

func (x *exchange) tokenBody() (kv.TokenOrder, error) {
	mt, err := x.mediaType()
	if err != nil {
		return kv.TokenOrder{}, err
	}
	if mt != "application/json" {
		return kv.TokenOrder{}, refusal(codeUnsupportedMedia, "send Content-Type: application/json")
	}
	if err := x.plainBody(); err != nil {
		return kv.TokenOrder{}, err
	}
	raw, err := x.readBody(tokenBodyMax)
	if err != nil {
		return kv.TokenOrder{}, err
	}
	return parseToken(raw)
}

// parseToken reads the body of POST /v1/tokens.
func parseToken(body []byte) (kv.TokenOrder, error) {
	var o kv.TokenOrder
	r := &opsReader{reader: reader{data: body}}
	grant := fields{"role", "prefix", "prefix_b64", "deny"}
	r.object(fields{"name", "grants", "ttl", "rate"}, func(i int) {
		switch i {
		case 0:
			o.Name = string(r.str())
		case 1:
			r.array(kv.GrantsMax, func(int) { o.Grants = append(o.Grants, r.grant(grant)) })
		case 2:
			o.TTLMs = r.ttl()
		case 3:
			o.Rate = r.float()
		}
	})
	return o, r.end()
}

func (r *reader) grant(names fields) (g kv.Grant) {
	seen := r.object(names, func(i int) {
		switch i {
		case 0:
			g.Role = kv.TokenRole(r.str())
		case 1:
			g.Prefix = r.keyPart(r.str())
		case 2:
			g.Prefix = r.keyPart(r.base64())
		case 3:
			g.Deny = r.boolean()
		}
	})
	const role, prefixes = 1 << 0, 1<<1 | 1<<2
	if seen&role == 0 {
		r.fail("want a role")
	}
	if seen&prefixes == prefixes {
		r.fail("prefix and prefix_b64 do not go together")
	}
	return g
}

// revokeToken serves DELETE /v1/tokens/{id}.
func (s *Server) revokeToken(x *exchange) error {
	if err := x.unrepeatable(); err != nil {
		return err
	}
	if err := x.plain(); err != nil {
		return err
	}
	if err := x.noBody(); err != nil {
		return err
	}
	id := x.match.Vars["id"]
	if !kv.ValidTokenID(id) {
		return invalid("token: want its id, 16 hexadecimal digits")
	}
	tokens, err := x.tokens()
	if err != nil {
		return err
	}
	gone, err := tokens.RevokeToken(x.ctx, id)
	if err != nil {
		return err
	}
	return x.reply(asTokenJSON(&gone))
}
