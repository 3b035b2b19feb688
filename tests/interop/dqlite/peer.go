// A node of go-dqlite, or a client of a cluster, that does what lines on its standard input say; each gets one line of
// answer, "ok ..." or "error ...".
//
//	peer node ID ADDRESS DIRECTORY THRESHOLD TRAILING LATENCY
//	peer client ADDRESS,ADDRESS,... [CERTIFICATE KEY]
//	peer app ADDRESS DIRECTORY LATENCY FREQUENCY VOTERS [-|ADDRESS,... [CERTIFICATE KEY]]
//
// With PEER_UPGRADE=PATH in the environment a client and an app tunnel everything through HTTP, as LXD does, inside TLS
// where there are certificates. With PEER_LOCK_BYTE=N a node has at byte N of a database the page that SQLite does not
// use, in place of 1 GiB: a control of SQLite's for tests, and of dqlite's.
//
// The latency, and the frequency of role management, are in ms. A node knows "quit". An app is a node with go-dqlite's
// role management that knows what a client knows, and "handover" and "quit". A client knows "exec SQL", "query SQL" (rows separated by ;), "rows SQL" (only their number),
// "cluster", "leader", "add ID ADDRESS", "assign ID ROLE", "remove ID", "transfer ID" and "load N SQL", which runs a
// statement N times with its number as the parameter, tries each again while it is not certain, and tells how many
// tries the user of database/sql saw fail; "failures" tells with which errors.
package main

/*
#cgo LDFLAGS: -lsqlite3 -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sqlite3.h>

// Return 0 if dqlite does not show where it has the number (from 1.16 on).
static int moveLockByte(unsigned at)
{
	unsigned *place = dlsym(RTLD_DEFAULT, "dq_sqlite_pending_byte");
	if (place == NULL) {
		return 0;
	}
	*place = at;
	return sqlite3_test_control(SQLITE_TESTCTRL_PENDING_BYTE, at) != 0;
}
*/
import "C"

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/canonical/go-dqlite"
	"github.com/canonical/go-dqlite/app"
	"github.com/canonical/go-dqlite/client"
	"github.com/canonical/go-dqlite/driver"
)

var findLeader func(context.Context) (*client.Client, error)

func main() {
	var answer func(string, string) (string, error)
	switch os.Args[1] {
	case "node":
		answer = startNode()
	case "app":
		answer = startApp()
	default:
		answer = startClient()
	}
	fmt.Println("ok ready")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		said, err := answer(verb, rest)
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok", said)
		}
	}
}

func must(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	must(err)
	return n
}

func startNode() func(string, string) (string, error) {
	params := dqlite.SnapshotParams{Threshold: number(os.Args[5]), Trailing: number(os.Args[6])}
	address := os.Args[3]
	if at := os.Getenv("PEER_LOCK_BYTE"); at != "" && C.moveLockByte(C.unsigned(number(at))) == 0 {
		must(errors.New("dqlite does not let its lock byte be moved"))
	}
	node, err := dqlite.New(number(os.Args[2]), address, os.Args[4],
		dqlite.WithBindAddress(address), dqlite.WithSnapshotParams(params),
		dqlite.WithNetworkLatency(time.Duration(number(os.Args[7]))*time.Millisecond))
	must(err)
	must(node.Start())
	return func(verb, rest string) (string, error) {
		must(node.Close())
		fmt.Println("ok closed")
		os.Exit(0)
		return "", nil
	}
}

func startClient() func(string, string) (string, error) {
	store := client.NewInmemNodeStore()
	var nodes []client.NodeInfo
	for _, address := range strings.Split(os.Args[2], ",") {
		nodes = append(nodes, client.NodeInfo{Address: address})
	}
	must(store.Set(context.Background(), nodes))
	dial := client.DefaultDialFunc
	listen, config := certificates(3)
	if path := os.Getenv("PEER_UPGRADE"); path != "" {
		dial = dialUpgrade(path, config)
	} else if listen != nil {
		dial = client.DialFuncWithTLS(dial, config)
	}
	findLeader = func(ctx context.Context) (*client.Client, error) {
		return client.FindLeader(ctx, store, client.WithDialFunc(dial))
	}
	sqlite, err := driver.New(store, driver.WithAttemptTimeout(5*time.Second), driver.WithDialFunc(dial))
	must(err)
	sql.Register("dqlite", sqlite)
	db, err := sql.Open("dqlite", "test.db")
	must(err)
	return func(verb, rest string) (string, error) { return run(db, verb, rest) }
}

func run(db *sql.DB, verb, rest string) (string, error) {
	switch verb {
	case "exec":
		_, err := db.Exec(rest)
		return "", err
	case "query", "rows":
		return query(db, rest, verb == "rows")
	case "load":
		n, statement, _ := strings.Cut(rest, " ")
		return load(db, int(number(n)), statement)
	}
	return manage(verb, strings.Fields(rest))
}

// Return go-dqlite's configurations for a certificate and a key that the arguments from number i on name, nil for none.
func certificates(i int) (*tls.Config, *tls.Config) {
	if len(os.Args) < i+2 {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(os.Args[i], os.Args[i+1])
	must(err)
	data, err := os.ReadFile(os.Args[i])
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	listen, dial := app.SimpleTLSConfig(pair, pool)
	// The cache goes by the name that all nodes share: a session of one node is offered to another one, and with Go 1.19
	// handshakes among nodes of go-dqlite alone fail with "bad record MAC" then.
	dial.ClientSessionCache = nil
	return listen, dial
}

// Return a function that opens a connection and asks for dqlite on it; what it says first goes out behind the answer.
func dialUpgrade(path string, config *tls.Config) client.DialFunc {
	return func(ctx context.Context, address string) (net.Conn, error) {
		dialer := &net.Dialer{Timeout: 5 * time.Second}
		var conn net.Conn
		var err error
		if config != nil {
			conn, err = tls.DialWithDialer(dialer, "tcp", address, config)
		} else {
			conn, err = dialer.DialContext(ctx, "tcp", address)
		}
		if err != nil {
			return nil, err
		}
		request := &http.Request{Method: "POST", Host: address, Header: http.Header{}, URL: &url.URL{Path: path}}
		request.Header.Set("Upgrade", "dqlite")
		request.Header.Set("X-Dqlite-Version", "1")
		var answer *http.Response
		if err = request.Write(conn); err == nil {
			answer, err = http.ReadResponse(bufio.NewReader(conn), request)
		}
		if err == nil && (answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Upgrade") != "dqlite") {
			err = fmt.Errorf("%s answers with %s", address, answer.Status)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// Serve HTTP at an address: whoever asks for dqlite at the path gets there, all others 404 or 400. The app answers 101.
func serveUpgrades(address, path string, config *tls.Config, accepted chan net.Conn) {
	listener, err := net.Listen("tcp", address)
	must(err)
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	handler := http.NewServeMux()
	handler.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.Header.Get("Upgrade") != "dqlite" || r.Header.Get("X-Dqlite-Version") != "1" {
			http.Error(w, "no request for dqlite", http.StatusBadRequest)
			return
		}
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil || buffered.Reader.Buffered() > 0 {
			fmt.Fprintln(os.Stderr, "somebody did not wait for the answer", err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "upgraded", r.RemoteAddr)
		accepted <- conn
	})
	server := &http.Server{Handler: handler, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	go server.Serve(listener)
}

func startApp() func(string, string) (string, error) {
	options := []app.Option{
		app.WithAddress(os.Args[2]),
		app.WithNetworkLatency(time.Duration(number(os.Args[4])) * time.Millisecond),
		app.WithRolesAdjustmentFrequency(time.Duration(number(os.Args[5])) * time.Millisecond),
		app.WithVoters(int(number(os.Args[6]))),
		app.WithLogFunc(func(level client.LogLevel, format string, args ...interface{}) {
			if level > client.LogDebug {
				fmt.Fprintf(os.Stderr, level.String()+": "+format+"\n", args...)
			}
		}),
	}
	if len(os.Args) > 7 && os.Args[7] != "-" {
		options = append(options, app.WithCluster(strings.Split(os.Args[7], ",")))
	}
	listen, dial := certificates(8)
	if path := os.Getenv("PEER_UPGRADE"); path != "" {
		accepted := make(chan net.Conn)
		serveUpgrades(os.Args[2], path, listen, accepted)
		options = append(options, app.WithExternalConn(dialUpgrade(path, dial), accepted))
	} else if listen != nil {
		options = append(options, app.WithTLS(listen, dial))
	}
	node, err := app.New(os.Args[3], options...)
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	must(node.Ready(ctx))
	db, err := node.Open(ctx, "test.db")
	must(err)
	findLeader = node.Leader
	return func(verb, rest string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		switch verb {
		case "handover":
			return "", node.Handover(ctx)
		case "quit":
			must(node.Close())
			fmt.Println("ok closed")
			os.Exit(0)
		}
		return run(db, verb, rest)
	}
}

func query(db *sql.DB, statement string, count bool) (string, error) {
	rows, err := db.Query(statement)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var all []string
	for rows.Next() {
		values := make([]interface{}, len(columns))
		for i := range values {
			values[i] = new(interface{})
		}
		if err := rows.Scan(values...); err != nil {
			return "", err
		}
		var one []string
		for _, value := range values {
			one = append(one, fmt.Sprintf("%v", *value.(*interface{})))
		}
		all = append(all, strings.Join(one, ","))
	}
	if count {
		return strconv.Itoa(len(all)), rows.Err()
	}
	return strings.Join(all, ";"), rows.Err()
}

func load(db *sql.DB, n int, statement string) (string, error) {
	failed := 0
	for i := 0; i < n; i++ {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := db.ExecContext(ctx, statement, i)
			cancel()
			if err == nil {
				break
			}
			failed++
			var refusal driver.Error
			if errors.As(err, &refusal) {
				err = fmt.Errorf("%d %w", refusal.Code, err)
			}
			failures[err.Error()]++
			if failed > 100+n {
				return "", err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return strconv.Itoa(failed), nil
}

var failures = map[string]int{}

func manage(verb string, args []string) (string, error) {
	if verb == "failures" {
		return fmt.Sprint(failures), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	leader, err := findLeader(ctx)
	if err != nil {
		return "", err
	}
	defer leader.Close()
	switch verb {
	case "cluster":
		nodes, err := leader.Cluster(ctx)
		var all []string
		for _, one := range nodes {
			all = append(all, fmt.Sprintf("%d %s %s", one.ID, one.Address, one.Role))
		}
		return strings.Join(all, ";"), err
	case "leader":
		node, err := leader.Leader(ctx)
		if err != nil {
			return "", err
		}
		return node.Address, nil
	case "add":
		return "", leader.Add(ctx, client.NodeInfo{ID: number(args[0]), Address: args[1], Role: client.Spare})
	case "assign":
		return "", leader.Assign(ctx, number(args[0]), client.NodeRole(number(args[1])))
	case "remove":
		return "", leader.Remove(ctx, number(args[0]))
	case "transfer":
		return "", leader.Transfer(ctx, number(args[0]))
	}
	return "", fmt.Errorf("unknown verb %s", verb)
}
