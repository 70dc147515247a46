package kv

import (
	"strings"
	"testing"
)

func TestTokenOrderValidate(t *testing.T) {
	good := TokenOrder{ID: "0123456789abcdef", Name: "app one", Grants: []Grant{{Role: RoleReader, Prefix: []byte("app/")}, {Role: RoleAdmin}}, TTLMs: 1, Rate: 0.5}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(o *TokenOrder){
		"id: ":                     func(o *TokenOrder) { o.ID = "0123456789ABCDEF" },
		"name: ":                   func(o *TokenOrder) { o.Name = "a\nb" },
		"ttl: ":                    func(o *TokenOrder) { o.TTLMs = -1 },
		"rate: ":                   func(o *TokenOrder) { o.Rate = TokenRateMax + 1 },
		"grants: want":             func(o *TokenOrder) { o.Grants = nil },
		"grants[0]: role \"root\"": func(o *TokenOrder) { o.Grants = []Grant{{Role: "root"}} },
		"takes no prefix":          func(o *TokenOrder) { o.Grants = []Grant{{Role: RoleAdmin, Prefix: []byte("a")}} },
		"all prefixes": func(o *TokenOrder) {
			for range 5 {
				o.Grants = append(o.Grants, Grant{Role: RoleReader, Prefix: make([]byte, KeyBytesMax)})
			}
		},
		"grants[0]: prefix": func(o *TokenOrder) { o.Grants = []Grant{{Role: RoleReader, Prefix: make([]byte, KeyBytesMax+1)}} },
	} {
		o := good
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}
