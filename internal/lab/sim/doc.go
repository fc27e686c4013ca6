// Package sim is a test: it plays random schedules of everything that can happen
// to clients that share a token, in virtual time, and checks after each event
// what the library promises.
//
// A seed decides how the servers behave and what happens when: many clients with
// bodies of all kinds, cancellations, logins and logouts, tokens that expire or
// are revoked, several APIs and several Auths on one Cache, origins and paths that
// refuse every token, rotation with reuse detection, outages, lost, slow and half
// replies, jumps of the server's clock, nonces for a while or for one request,
// several processes, up to 64, over one store that fails, with clocks up to 5 s apart,
// locks that are lost and processes that are cut off from the store, more users than a
// Keyed has room for, whose logins end. The library is the real one, with
// nothing replaced in it; the servers are RoundTrippers that read bodies, answer
// as early, late and rudely as net/http's transports can, and close connections
// on which they have refused an upload.
//
//	go test ./internal/lab/sim                                 1,000 seeds
//	go test ./internal/lab/sim -run Simulation -seeds 40000    more
//	go test ./internal/lab/sim -run Simulation -seed 4711 -v   one, with its log
//
// A seed that fails is printed with its log. The schedule is the seed's alone; the
// library's jitter and what runs first of two things at the same instant are
// not, so -seed plays a seed up to 100 times, until it fails.
//
// TestEachDefectIsFound takes one rule out of the library at a time and demands
// that the simulation finds it.
package sim
