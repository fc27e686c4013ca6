// Package fleet simulates the replicas of a service that ask for tokens: 10,000
// real Caches in virtual time, started within one second as after a deployment,
// for a day, through an outage of the token endpoint. It has no code but tests.
//
//	go test ./internal/lab/fleet
//
// simulates some hours, and checks the bounds within seconds.
//
//	go test -v -timeout 2h ./internal/lab/fleet -whole
//
// simulates whole days, checks the same bounds, prints the tables of README.md and
// draws docs/fleet.svg. With -replicas 100000 there are as many; the tests
// that check bounds are then
//
//	go test -timeout 2h -run 'Fleet' ./internal/lab/fleet -replicas 100000
//
// README.md says what is simulated, why the figures are what they are, and how the
// window of the early refresh and the spacing after failures were chosen by them.
package fleet
