package placement

import (
	"context"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

// CreateToken adds a token. The order names an id and a hash that were minted where
// it is made: its secret is never sent between nodes.
func (c *Control) CreateToken(ctx context.Context, order kv.TokenOrder) (kv.Token, error) {
	if err := order.Validate(); err != nil {
		return kv.Token{}, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "%s", err)
	}
	answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodCreateToken, CreateToken: orderToProto(&order)})
	if err != nil {
		return kv.Token{}, err
	}
	c.fresh(ctx) // here it counts from now on
	return tokenFromProto(answer.Token), nil
}

// RevokeToken takes a token away, and gives it as it was. CodeNotFound: there is none.
func (c *Control) RevokeToken(ctx context.Context, id string) (kv.Token, error) {
	answer, err := c.admin(ctx, &metapb.ControlRequest{Method: methodRevokeToken, Token: id})
	if err != nil {
		return kv.Token{}, err
	}
	if answer.Token == nil {
		return kv.Token{}, kv.Errorf(kv.CodeNotFound, kv.OutcomeNotApplied, "no token %q", id)
	}
	c.fresh(ctx)
	return tokenFromProto(answer.Token), nil
}

// Tokens gives all tokens, by id.
func (c *Control) Tokens(ctx context.Context) ([]kv.Token, error) {
	state := c.fresh(ctx)
	if state.ClusterID() == "" {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "this node does not know its cluster yet")
	}
	return state.Tokens().All(), nil
}

// serveTokens makes or revokes a token on the meta leader. Followers would learn of
// the commit with what they are sent next, which on an idle shard may take a second; so
// there is something more to send at once: a command that changes nothing. (Not the
// same again: a second order for a token must not come after its revocation.)
func (c *Control) serveTokens(ctx context.Context, req *metapb.ControlRequest) (*metapb.ControlAnswer, error) {
	command := &metapb.Command{Body: &metapb.Command_RevokeToken{RevokeToken: &metapb.RevokeToken{Id: req.Token}}}
	if req.Method == methodCreateToken {
		command = &metapb.Command{Body: &metapb.Command_CreateToken{CreateToken: req.CreateToken}}
	}
	result, err := propose(ctx, c.agent.meta, command)
	if err != nil {
		return nil, err
	}
	nothing := &metapb.Command{Body: &metapb.Command_RevokeToken{RevokeToken: &metapb.RevokeToken{}}}
	if _, err := propose(ctx, c.agent.meta, nothing); err != nil {
		c.agent.log.Debug("a change of tokens travels with what comes next", "err", err)
	}
	return &metapb.ControlAnswer{Token: result.Token}, nil
}
