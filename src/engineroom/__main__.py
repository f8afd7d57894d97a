from engineroom.cli import main

main()
