from morocco_lib.cli.entry import main

raise SystemExit(main())
