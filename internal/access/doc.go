// Package access decides what a token may do. It is pure: grants go in, an answer
// comes out.
//
// A role takes in those below it: admin > writer > reader. A grant that allows a role
// on a prefix allows it and what it takes in; one that denies a role denies it and
// what takes it in. Hence:
//
//  1. Deny wins, in whatever order grants stand.
//  2. Who may write a key may read it. The answer to a write tells what was there
//     (was it created, which version does it have), so there is no token that
//     writes but cannot read.
//  3. A range is allowed only if every key in it is.
//  4. What nobody allowed is denied.
//  5. To administer takes an allowed admin without a prefix and no denied admin at
//     all. Denied keys stay denied to an administrator.
package access
