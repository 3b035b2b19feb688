// A node of go-dqlite, or a client of a cluster, that does what lines on its standard input say; each gets one line of
// answer, "ok ..." or "error ...".
//
//	peer node ID ADDRESS DIRECTORY THRESHOLD TRAILING LATENCY
//	peer client ADDRESS,ADDRESS,...
//
// The latency is in ms. A node knows "quit". A client knows "exec SQL", "query SQL" (rows separated by ;), "rows SQL" (only their number),
// "cluster", "leader", "add ID ADDRESS", "assign ID ROLE", "remove ID", "transfer ID" and "load N SQL", which runs a
// statement N times with its number as the parameter, tries each again while it is not certain, and tells how many
// tries the user of database/sql saw fail.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/canonical/go-dqlite"
	"github.com/canonical/go-dqlite/client"
	"github.com/canonical/go-dqlite/driver"
)

var peers client.NodeStore

func main() {
	var answer func(string, string) (string, error)
	if os.Args[1] == "node" {
		answer = startNode()
	} else {
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
	peers = store
	sqlite, err := driver.New(store, driver.WithAttemptTimeout(5*time.Second))
	must(err)
	sql.Register("dqlite", sqlite)
	db, err := sql.Open("dqlite", "test.db")
	must(err)
	return func(verb, rest string) (string, error) {
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
			if failed > 100+n {
				return "", err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return strconv.Itoa(failed), nil
}

func manage(verb string, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	leader, err := client.FindLeader(ctx, peers)
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
