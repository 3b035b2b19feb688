"""Tests of pyraft.node: values, machines, replicas."""
