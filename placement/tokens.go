package placement

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// TokenSet is the part of the state that says who may do what. Immutable: states
// that share it hold the same tokens.
type TokenSet struct {
	list         []*metapb.Token // ascending id
	bootstrapped bool
}

// expiredKept is for how long an expired token is listed, if there is room. Then the
// next that is made takes it away.
const expiredKept = 24 * 60 * 60 * 1000 // milliseconds

// Tokens gives the tokens of the cluster; never nil.
func (s *State) Tokens() *TokenSet { return s.tokens }

// All gives all tokens, by id.
func (t *TokenSet) All() []kv.Token {
	out := make([]kv.Token, len(t.list))
	for i, token := range t.list {
		out[i] = tokenFromProto(token)
	}
	return out
}

// Bootstrapped reports whether the first token was made.
func (t *TokenSet) Bootstrapped() bool { return t.bootstrapped }

// Has reports whether there is a token with an id.
func (t *TokenSet) Has(id string) bool {
	_, found := t.index(id)
	return found
}

func (t *TokenSet) index(id string) (int, bool) {
	return slices.BinarySearchFunc(t.list, id, func(t *metapb.Token, id string) int { return cmp.Compare(t.Id, id) })
}

// without gives the tokens but for those that had expired at a time.
func (t *TokenSet) without(expired int64) []*metapb.Token {
	return slices.DeleteFunc(slices.Clone(t.list), func(t *metapb.Token) bool { return t.ExpiresMs != 0 && t.ExpiresMs < expired })
}

// createToken adds a token. It takes away what expired long ago or, if there is no room,
// what has expired at all.
func (s *State) createToken(c *metapb.CreateToken, at int64) (*State, *metapb.Result) {
	order := orderFromProto(c)
	if err := order.Validate(); err != nil {
		return s, refuse(kv.CodeInvalid, "not a token: %v", err)
	}
	if n := len(c.Token.Hash); n != len(kv.TokenHash{}) {
		return s, refuse(kv.CodeInvalid, "not a token: a hash of %d bytes", n)
	}
	i, found := s.tokens.index(order.ID)
	kept := s.tokens.without(at - expiredKept)
	if len(kept) >= kv.TokensMax {
		kept = s.tokens.without(at)
	}
	switch {
	case s.clusterID == "":
		return s, refuse(kv.CodeConflict, "the cluster is not founded yet")
	case found && slices.Equal(s.tokens.list[i].Hash, c.Token.Hash):
		return s, &metapb.Result{Token: s.tokens.list[i]} // the same order again
	case c.Bootstrap && s.tokens.bootstrapped:
		return s, refuse(kv.CodeConflict, "the first token was made already")
	case found:
		return s, refuse(kv.CodeConflict, "there is a token %s already", order.ID)
	case len(kept) >= kv.TokensMax:
		return s, refuse(kv.CodeConflict, "there are %d tokens, which is the limit: revoke some", len(kept))
	}
	t := tokenToProto(kv.Token{ID: order.ID, Hash: order.Hash, Name: order.Name, Grants: order.Grants, CreatedMs: at, Rate: order.Rate, Root: c.Bootstrap})
	if order.TTLMs > 0 {
		t.ExpiresMs = at + order.TTLMs
	}
	i, _ = (&TokenSet{list: kept}).index(t.Id)
	next := *s
	next.tokens = &TokenSet{list: slices.Insert(kept, i, t), bootstrapped: s.tokens.bootstrapped || c.Bootstrap}
	return &next, &metapb.Result{Token: t}
}

// revokeToken takes a token away, but not the last one that may make others.
func (s *State) revokeToken(c *metapb.RevokeToken, at int64) (*State, *metapb.Result) {
	i, found := s.tokens.index(c.GetId())
	if !found {
		return s, &metapb.Result{}
	}
	gone := s.tokens.list[i]
	rest := slices.Delete(slices.Clone(s.tokens.list), i, i+1)
	admin := func(t *metapb.Token) bool { return administers(t, at) }
	if admin(gone) && !slices.ContainsFunc(rest, admin) {
		return s, refuse(kv.CodeConflict, "token %s is the last one that may administer the cluster: make another one first", gone.Id)
	}
	next := *s
	next.tokens = &TokenSet{list: rest, bootstrapped: s.tokens.bootstrapped}
	return &next, &metapb.Result{Token: gone}
}

func administers(t *metapb.Token, at int64) bool {
	return (t.ExpiresMs == 0 || t.ExpiresMs > at) && access.NewPolicy(tokenFromProto(t).Grants).Allows(access.Op{Act: access.Administer})
}

// checkTokens gives an error unless the tokens could have come from commands.
func (s *State) checkTokens() error {
	for i, t := range s.tokens.list {
		order := orderFromProto(&metapb.CreateToken{Token: t})
		if err := order.Validate(); err != nil {
			return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone, "token %d: %w", i, err)
		}
		if len(t.Hash) != len(kv.TokenHash{}) || i > 0 && s.tokens.list[i-1].Id >= t.Id {
			return kv.Errorf(kv.CodeCorrupt, kv.OutcomeNone, "token %s is out of order or has a bad hash", t.Id)
		}
	}
	return nil
}

// tokenRoles are the roles by their number in metapb; that of none is 0.
var tokenRoles = []kv.TokenRole{"", kv.RoleReader, kv.RoleWriter, kv.RoleAdmin}

func roleToProto(role kv.TokenRole) metapb.TokenRole {
	return metapb.TokenRole(max(0, slices.Index(tokenRoles, role)))
}

func roleFromProto(role metapb.TokenRole) kv.TokenRole {
	if role < 0 || int(role) >= len(tokenRoles) {
		return ""
	}
	return tokenRoles[role]
}

func tokenToProto(t kv.Token) *metapb.Token {
	out := &metapb.Token{
		Id: t.ID, Hash: slices.Clone(t.Hash[:]), Name: t.Name, CreatedMs: t.CreatedMs, ExpiresMs: t.ExpiresMs, Rate: t.Rate, Root: t.Root,
	}
	for _, g := range t.Grants {
		out.Grants = append(out.Grants, &metapb.Grant{Role: roleToProto(g.Role), Prefix: slices.Clone(g.Prefix), Deny: g.Deny})
	}
	return out
}

func tokenFromProto(t *metapb.Token) kv.Token {
	out := kv.Token{ID: t.GetId(), Name: t.GetName(), CreatedMs: t.GetCreatedMs(), ExpiresMs: t.GetExpiresMs(), Rate: t.GetRate(), Root: t.GetRoot()}
	copy(out.Hash[:], t.GetHash())
	for _, g := range t.GetGrants() {
		out.Grants = append(out.Grants, kv.Grant{Role: roleFromProto(g.Role), Prefix: g.Prefix, Deny: g.Deny})
	}
	return out
}

func orderToProto(o *kv.TokenOrder) *metapb.CreateToken {
	return &metapb.CreateToken{
		Token: tokenToProto(kv.Token{ID: o.ID, Hash: o.Hash, Name: o.Name, Grants: o.Grants, Rate: o.Rate}),
		TtlMs: o.TTLMs, Bootstrap: o.Bootstrap,
	}
}

// orderFromProto copies, because what it gives is checked and then kept.
func orderFromProto(c *metapb.CreateToken) kv.TokenOrder {
	t := tokenFromProto(proto.CloneOf(c.GetToken()))
	return kv.TokenOrder{ID: t.ID, Hash: t.Hash, Name: t.Name, Grants: t.Grants, TTLMs: c.GetTtlMs(), Rate: t.Rate, Bootstrap: c.GetBootstrap()}
}
